"""Settings: which source wins, and what is refused under which name."""

from pathlib import Path

import pytest

from meshnode import config
from meshnode.errors import ConfigInvalid, HomeUnusable
from meshnode.toml_file import FILE_BYTES_MAX


@pytest.fixture
def home(tmp_path):
    return tmp_path


def write(home, text):
    (home / "config.toml").write_text(text)


def test_defaults_need_no_file(home):
    loaded = config.load(home, {}, {})
    assert (loaded.home, loaded.api_port, loaded.mesh_port) == (home, 8420, 8421)
    assert (loaded.api_host, loaded.mesh_host, loaded.engine) == ("127.0.0.1", "0.0.0.0", "llama")
    assert loaded.model == "smollm2:135m"


def test_a_flag_beats_the_environment_which_beats_the_file(home):
    write(home, 'name = "file"\nslots = 2\nthreads = 2\nbootstrap = ["a:1", "b:2"]\n')
    env = {"MESHNODE_SLOTS": "3", "MESHNODE_THREADS": "3", "OTHER": "x"}
    loaded = config.load(home, {"threads": 4, "model": None, "open_mesh": False}, env)
    assert (loaded.name, loaded.slots, loaded.threads) == ("file", 3, 4)
    assert loaded.bootstrap == ("a:1", "b:2")


def test_text_from_the_environment_is_converted(home):
    env = {"MESHNODE_OPEN_MESH": "true", "MESHNODE_API_PORT": "0", "MESHNODE_BOOTSTRAP": "a:1, b:2,"}
    loaded = config.load(home, {}, env)
    assert (loaded.open_mesh, loaded.api_port, loaded.bootstrap) == (True, 0, ("a:1", "b:2"))


@pytest.mark.parametrize(
    ("flags", "env", "text", "param", "hint"),
    [
        ({"api_prt": 1}, {}, "", "api_prt", "Did you mean api_port?"),
        ({}, {"MESHNODE_MODLE": "x"}, "", "modle", "Did you mean model?"),
        ({}, {}, "slot = 3", "slot", "Did you mean slots?"),
        ({}, {}, "zzzzzz = 3", "zzzzzz", "The settings are"),
        ({}, {}, 'home = "/x"', "home", ""),
        ({"api_port": 70_000}, {}, "", "api_port", "port"),
        ({}, {"MESHNODE_SLOTS": "many"}, "", "slots", "requests"),
        ({}, {}, "slots = 0", "slots", ""),
        ({}, {}, 'slots = "3"x', "config.toml", ""),
        ({}, {}, "open_mesh = 3", "open_mesh", ""),
        ({"engine": "vllm"}, {}, "", "engine", "llama.cpp"),
        ({"name": "a\nb"}, {}, "", "name", ""),
        ({"name": "a" * 65}, {}, "", "name", ""),
        ({"api_origins": ("https://a.example/path",)}, {}, "", "api_origins", "https://chat.example"),
        ({}, {"MESHNODE_API_ORIGINS": "*"}, "", "api_origins", "https://chat.example"),
        ({}, {}, '[[profiles]]\nname = "a"\n[[profiles]]\nname = "a"', "profiles", ""),
        ({}, {}, '[[profiles]]\nname = "a"\nprivate = true', "profiles", ""),
    ],
)
def test_what_is_unknown_or_impossible_is_named(home, flags, env, text, param, hint):
    write(home, text)
    with pytest.raises(ConfigInvalid) as caught:
        config.load(home, flags, env)
    assert caught.value.param == param
    assert hint in caught.value.hint


def test_the_message_says_where_the_value_came_from(home):
    write(home, "slots = 0")
    with pytest.raises(ConfigInvalid, match=r"slots \(in .*config.toml\)"):
        config.load(home, {}, {})
    write(home, "")
    with pytest.raises(ConfigInvalid, match=r"MESHNODE_SLOTS \(in the environment\)"):
        config.load(home, {}, {"MESHNODE_SLOTS": "0"})
    with pytest.raises(ConfigInvalid, match=r"--api-port \(on the command line\)"):
        config.load(home, {"api_port": -1}, {"MESHNODE_SLOTS": "3"})


def test_a_ticket_and_a_home_in_the_environment_are_not_settings(tmp_path):
    env = {"MESHNODE_TICKET": "mesh1x", "MESHNODE_HOME": str(tmp_path / "h")}
    assert config.load(None, {}, env).home == tmp_path / "h"
    assert config.load(tmp_path, {}, env).home == tmp_path


def test_without_any_word_the_home_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert config.default_home({}).name == "meshnode"
    assert config.load(Path("~/x"), {}, {}).home == Path("~/x").expanduser()


def test_a_file_that_cannot_be_read_or_is_huge_is_refused(home):
    (home / "config.toml").mkdir()
    with pytest.raises(HomeUnusable):
        config.load(home, {}, {})
    (home / "config.toml").rmdir()
    write(home, "#" * FILE_BYTES_MAX + "\n")
    with pytest.raises(ConfigInvalid):
        config.load(home, {}, {})


def test_every_setting_is_documented():
    settings = config.every_setting()
    assert [setting.name for setting in settings] == list(config.NAMES)
    assert all(setting.description.endswith(".") for setting in settings)


def test_hours_that_are_none_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigInvalid, match="spare_hours is not usable: 'noon' is no day") as caught:
        config.load(tmp_path, {}, {"MESHNODE_SPARE_HOURS": "22:00-07:00,noon"})
    assert caught.value.param == "spare_hours"
    assert "22:00-07:00" in caught.value.hint
    assert config.load(tmp_path, {}, {"MESHNODE_SPARE_HOURS": "22:00-07:00,Sat"}).hours()[1].days == (5,)
