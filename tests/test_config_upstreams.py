"""Settings for upstream servers: short and long forms, and what is refused without repeating a secret."""

import re
from pathlib import Path

import pytest

from meshnode import config
from meshnode.cli.program import program
from meshnode.config import Upstream
from meshnode.errors import ConfigInvalid

GUIDE = (Path(__file__).parent.parent / "docs" / "upstream.md").read_text(encoding="utf-8")
HERE = "http://127.0.0.1:11434"


def loaded(home, text="", **flags):
    (home / "config.toml").write_text(text)
    return config.every_upstream(config.load(home, flags, {}))


def test_a_url_alone_is_enough_and_a_table_says_more(tmp_path):
    table = (
        f'[[upstreams]]\nurl = "{HERE}"\nname = "mine"\nmodels = ["a", "b"]\ncontained = true\nslots = 2\n'
    )
    assert loaded(tmp_path, table, upstream="http://localhost:1/v1, http://[::1]:2") == (
        Upstream(url="http://localhost:1/v1"),
        Upstream(url="http://[::1]:2"),
        Upstream(url=HERE, name="mine", models=("a", "b"), contained=True, slots=2),
    )
    env = {"MESHNODE_UPSTREAM": HERE}
    assert config.every_upstream(config.load(tmp_path / "none", {}, env)) == (Upstream(url=HERE),)
    assert not Upstream(url=HERE).contained


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (f'url = "{HERE}"\ncontaned = true', "contaned"),
        ("slots = 2", "url"),
        (f'url = "{HERE}"\nslots = 0', "slots"),
        ('url = "ftp://127.0.0.1"', "no usable URL"),
        ('url = "127.0.0.1:11434"', "no usable URL"),
        ('url = "http://127.0.0.1:99999"', "no usable URL"),
        ('url = "http://[::1"', "no usable URL"),
        ('url = "http://127.0.0.1/v1?key=hunter2"', "no usable URL"),
        ('url = "http://me:hunter2@127.0.0.1"', "password"),
        ('url = "http://10.0.0.7:8000"', "prompts would leave"),
        ('url = "http://127.0.0.1.example.com"', "prompts would leave"),
        (f'url = "{HERE}"\n[[upstreams]]\nurl = "{HERE}"', "twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path, table, words):
    with pytest.raises(ConfigInvalid) as caught:
        loaded(tmp_path, f"[[upstreams]]\n{table}\n")
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.param == "upstreams"


def test_another_machine_takes_the_owners_word(tmp_path):
    table = '[[upstreams]]\nurl = "https://10.0.0.7:8000"\nallow_remote = true\n'
    assert loaded(tmp_path, table)[0].allow_remote
    with pytest.raises(ConfigInvalid, match="allow_remote = true"):
        loaded(tmp_path, "", upstream="https://10.0.0.7:8000")


def test_the_guide_shows_settings_that_work(tmp_path):
    (table,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    local, remote = loaded(tmp_path, table)
    assert (local.contained, local.models, remote.allow_remote) == (True, ("Qwen/Qwen3-8B",), True)
    assert set(Upstream.__struct_fields__) <= set(re.findall(r"\w+", GUIDE))


def test_the_guide_shows_a_command_that_works(tmp_path):
    (line,) = re.findall(r"^meshnode up (.*)$", GUIDE, re.MULTILINE)
    options = program.commands["up"].make_context("up", line.split()).params
    assert loaded(tmp_path, upstream=options["upstream"]) == (Upstream(url=HERE),)
    assert options["engine"] == "none"
