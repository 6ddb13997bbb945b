"""What verbs print with --json: each has its shape; `documented` in conftest.py holds all tests to it."""

import json
import os
from pathlib import Path

import click
import jsonschema
import pytest
from click.testing import CliRunner

from meshnode.cli import audit
from meshnode.cli.outputs import OUTPUTS, schema
from meshnode.cli.program import program
from meshnode.cli.render import Screen
from meshnode.errors import AuditBroken
from meshnode.identity import load_or_create
from meshnode.observe.audit_check import Finding, Report
from tests.cli.fake_node import lines_of

SCHEMA = Path(__file__).parents[2] / "docs" / "cli-output.schema.json"


def every_verb(group=program, before=""):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_verb(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


def test_every_verb_has_its_lines_documented():
    assert set(every_verb()) == set(OUTPUTS)


def test_the_published_schema_is_one():
    published = json.loads(SCHEMA.read_text())
    for verb in published["verbs"].values():
        jsonschema.Draft202012Validator.check_schema({**verb, "$defs": published["$defs"]})
    used = json.dumps(published)
    assert all(f'"#/$defs/{name}"' in used for name in published["$defs"])
    assert published == json.loads(json.dumps(schema()))


@pytest.mark.parametrize(
    "wrong", [{"version": 1, "home": "x"}, {"version": "1"}, {"version": "1", "home": "x", "y": 1}]
)
def test_a_line_that_is_not_documented_fails_these_tests(wrong):
    with (
        click.Context(click.Group("meshnode"), info_name="meshnode") as root,
        click.Context(click.Command("version"), parent=root, info_name="version"),
        pytest.raises(jsonschema.ValidationError),
    ):
        Screen(as_json=True).json(wrong)


@pytest.mark.parametrize("bad", [None, Finding(3, "log", 7, "changed")])
def test_audit_verify_prints_its_report(tmp_path, monkeypatch, bad):
    own = load_or_create(tmp_path, os.urandom)

    async def verify(home, heard, seams):
        return Report(lines=4, first=1, last=4, head=4, bad=bad)

    monkeypatch.setattr(audit, "verify_log", verify)
    result = CliRunner().invoke(program, ["audit", "verify", "--home", str(tmp_path), "--json"])
    report, *error = lines_of(result)
    assert (report["intact"], report["key"], report["lines"]) == (bad is None, own.key.hex(), 4)
    assert [one["error"]["code"] for one in error] == ([] if bad is None else [AuditBroken.code])
