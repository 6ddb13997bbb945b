"""Settings for commercial APIs: what the guide shows, what is refused, and that no secret is repeated."""

import re
from pathlib import Path

import pytest

from meshnode import config
from meshnode.cli.program import program
from meshnode.errors import ConfigInvalid
from meshnode.terms import CloudApi, CloudModel

GUIDE = (Path(__file__).parent.parent / "docs" / "cloud.md").read_text(encoding="utf-8")
MODEL = '[[cloud.models]]\nid = "m"\ninput_usd = 1\noutput_usd = 2\n'
GOOD = 'name = "a"\nurl = "https://a.example/v1"\nmonthly_usd = 1\n'


def loaded(home, table):
    (home / "config.toml").write_text(f"[[cloud]]\n{table}")
    return config.load(home, {}, {}).cloud


def test_the_guide_shows_settings_that_work(tmp_path):
    (table,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    first, second = loaded(tmp_path, table.removeprefix("[[cloud]]\n"))
    assert (first.privacy, first.redact, first.models[0].names) == (
        ("public", "private"),
        True,
        ("qwen3:8b",),
    )
    assert (second.privacy, second.request_usd, second.residency) == (("public",), 1.0, ("eu",))
    words = set(re.findall(r"\w+", GUIDE))
    assert {*CloudApi.__struct_fields__, *CloudModel.__struct_fields__} <= words


def test_the_guide_shows_a_command_that_works():
    assert "`meshnode run --route cloud`" in GUIDE
    assert "--route" in {name for param in program.commands["run"].params for name in param.opts}


def test_nothing_goes_there_unless_it_is_said():
    api = CloudApi(name="a", url="https://a", models=(), monthly_usd=1.0)
    assert (api.privacy, api.redact) == (("public",), False)
    assert config.Config(home=Path("x")).cloud == ()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (GOOD, "models"),
        (GOOD.replace("monthly_usd = 1\n", "") + MODEL, "monthly_usd"),
        (GOOD.replace("monthly_usd = 1", "monthly_usd = -1") + MODEL, "monthly_usd"),
        (GOOD + MODEL.replace("output_usd = 2\n", ""), "output_usd"),
        (GOOD + MODEL.replace("input_usd = 1", "input_usd = -1"), "input_usd"),
        (GOOD + 'privacy = ["sensitive"]\n' + MODEL, "privacy"),
        (GOOD + 'privacy = ["local"]\n' + MODEL, "privacy"),
        (GOOD + "montly_usd = 1\n" + MODEL, "montly_usd"),
        (GOOD.replace('"a"', '"A b"') + MODEL, "name"),
        (GOOD.replace("https:", "http:") + MODEL, "in the clear"),
        (GOOD.replace("https:", "ftp:") + MODEL, "no usable URL"),
        (GOOD.replace("a.example", "me:hunter2@a.example") + MODEL, "password"),
        (GOOD + MODEL + "[[cloud]]\n" + GOOD + MODEL, "one name"),
        (GOOD + 'redact_region = "Germany"\n' + MODEL, "redact_region"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path, table, words):
    with pytest.raises(ConfigInvalid) as caught:
        loaded(tmp_path, table)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.param == "cloud"
