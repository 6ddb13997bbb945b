"""A running node to ask, and the program to ask it with."""

import os

import pytest
from click.testing import CliRunner

from meshnode.cli.program import program
from tests.api.fakes import FakeDoors
from tests.cli.fake_node import FakeNode


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
