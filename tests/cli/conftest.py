"""A running node to ask, and the program to ask it with."""

import json
import os

import click
import msgspec
import pytest
from click.testing import CliRunner

from meshnode.cli.program import program
from meshnode.cli.render import Screen
from tests.api.fakes import FakeDoors
from tests.cli.fake_node import FakeNode
from tests.cli.published import validator


@pytest.fixture(autouse=True)
def documented(monkeypatch):
    """Every line of JSON that a verb prints in these tests is held against the published schema."""
    write = Screen.json

    def checked(screen, data):
        if screen.as_json:
            _program, _, verb = click.get_current_context().command_path.partition(" ")
            validator(verb).validate(json.loads(msgspec.json.encode(data)))
        write(screen, data)

    monkeypatch.setattr(Screen, "json", checked)


@pytest.fixture
def node(tmp_path):
    with FakeNode(tmp_path, FakeDoors()).running() as node:
        yield node


@pytest.fixture
def meshnode(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MESHNODE_")]:
        monkeypatch.delenv(name)

    def invoke(*args, stdin="", code=0):
        result = CliRunner().invoke(program, [args[0], "--home", str(tmp_path), *args[1:]], input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke
