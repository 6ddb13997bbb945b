"""`meshnode keys` on a home whose node does not run."""

import json

import pytest
from click.testing import CliRunner

from meshnode.cli import exits
from meshnode.cli.program import program
from meshnode.node.home import locked_home

PROFILES = '[[profiles]]\nname = "team"\nprivacy = ["public"]\nper_minute = 60\n'


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def meshnode(home):
    def invoke(*words, code=0):
        result = CliRunner().invoke(program, ["keys", *words, "--home", str(home)])
        assert result.exit_code == code, result.output
        return result

    return invoke


def lines_of(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_key_is_made_shown_once_listed_and_revoked(meshnode):
    assert "no API keys" in meshnode("list").stdout
    (made,) = lines_of(meshnode("create", "desk", "--json"))
    assert made["key"].startswith(f"mn-{made['about']['id']}-")
    listed = meshnode("list").stdout
    assert "desk" in listed
    assert "good" in listed
    assert made["key"] not in listed + meshnode("list", "--json").stdout
    assert "is revoked" in meshnode("revoke", "desk").stdout
    (view,) = lines_of(meshnode("list", "--json"))
    assert (view["id"], view["state"]) == (made["about"]["id"], "revoked")
    meshnode("revoke", "desk", code=exits.USAGE)


def test_what_a_key_may_do_is_said_when_it_is_made(meshnode, home):
    home.mkdir()
    (home / "config.toml").write_text(PROFILES)
    options = ["--privacy", "public", "--model", "qwen3:*", "--no-cloud", "--max-tokens", "100"]
    options += ["--expires", "12h", "--scope", "chat"]
    options += ["--min-tier", "3", "--residency", "eu", "--max-price", "0.01"]
    made = meshnode("create", "app", "--profile", "team", *options, "--json")
    (about,) = [line["about"] for line in lines_of(made)]
    assert (about["profile"], about["scopes"]) == ("team", ["chat"])
    assert about["expires_ms"] - about["made_ms"] == 12 * 3_600_000
    assert about["limits"] == {
        "privacy": ["public"],
        "models": ["qwen3:*"],
        "cloud": False,
        "max_tokens": 100,
        "min_tier": 3,
        "residency": ["eu"],
        "max_price_usd": 0.01,
        "concurrent": 0,
        "per_minute": 0,
    }
    assert "public; qwen3:*; no cloud; 100 tokens; tier 3; eu; 0.01 USD" in meshnode("list").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("create", "desk", "--profile", "nobody"),
        ("create", "desk", "--expires", "soon"),
        ("create", "desk", "--privacy", "secret"),
        ("create", "desk", "--scope", "everything"),
        ("create", "a\nb"),
        ("create", "a" * 65),
        ("revoke", "nothing"),
    ],
)
def test_what_is_impossible_is_refused(meshnode, words):
    meshnode(*words, code=exits.USAGE)
    assert "no API keys" in meshnode("list").stdout


def test_a_node_that_is_just_starting_is_not_written_under(meshnode, home):
    """It has the home already, and would not hear of the key."""
    meshnode("list")
    with locked_home(home):
        meshnode("create", "desk", code=exits.TABLE["home_in_use"])


def test_the_first_good_key_is_told_what_it_changes(meshnode):
    made = meshnode("create", "desk")
    assert "`unused`" in made.stderr
    assert "note:" not in made.stdout
    assert "note:" not in meshnode("create", "phone").stderr
    assert [line["first"] for line in lines_of(meshnode("create", "tablet", "--json"))] == [False]
    for name in ("desk", "phone", "tablet"):
        meshnode("revoke", name)
    again = meshnode("create", "desk", "--json")
    assert [line["first"] for line in lines_of(again)] == [True]
    assert again.stderr == ""
