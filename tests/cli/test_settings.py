"""`meshnode config`: what is in force and why, and changes of the file that leave everything else in it alone."""

import os
import stat
import subprocess
import sys
import threading
import tomllib

import pytest
from click.testing import CliRunner

from meshnode import config
from meshnode.cli import exits
from meshnode.cli.program import program
from meshnode.config import NAMES
from meshnode.errors import MeshError
from meshnode.toml_file import FILE_BYTES_MAX
from tests.cli.fake_node import lines_of

FILE = """\
# What this machine is.
name = "desk"  # beside the window

# Models, the small one first.
models = ["a:1b", "b:2b"]

[[upstreams]]
# ollama
url = "http://127.0.0.1:11434"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MESHNODE_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def file(home):
    path = home / "config.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def meshnode(home):
    def invoke(verb, *words, code=0):
        result = CliRunner().invoke(program, ["config", verb, "--home", str(home), *words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return invoke


def shown(meshnode, *words):
    return {view["name"]: view for view in lines_of(meshnode("show", *words, "--json"))}


def test_every_setting_says_where_it_comes_from(meshnode, home, file, monkeypatch):
    monkeypatch.setenv("MESHNODE_SLOTS", "3")
    monkeypatch.setenv("MESHNODE_NAME", "from outside")
    monkeypatch.setenv("MESHNODE_TICKET", "mesh1secret")
    seen = shown(meshnode)
    assert set(seen) == set(NAMES)
    assert seen["models"] == {
        "name": "models", "value": ["a:1b", "b:2b"], "source": "file", "where": str(file)
    }  # fmt: skip
    assert (seen["slots"]["value"], seen["slots"]["source"]) == (3, "environment")
    assert seen["slots"]["where"] == "MESHNODE_SLOTS"
    assert (seen["name"]["value"], seen["name"]["source"]) == ("from outside", "environment")
    assert (seen["engine"]["value"], seen["engine"]["source"]) == ("llama", "default")
    assert (seen["home"]["value"], seen["home"]["source"]) == (str(home), "command line")
    assert seen["upstreams"]["value"][0]["url"] == "http://127.0.0.1:11434"
    assert set(shown(meshnode, "--changed")) == {"home", "name", "models", "slots", "upstreams"}
    text = meshnode("show").stdout
    assert "environment: MESHNODE_SLOTS" in text
    assert "secret" not in text


def test_the_home_may_come_from_the_environment_or_from_nowhere(home, monkeypatch):
    def source():
        result = CliRunner().invoke(program, ["config", "show", "--json"])
        return next(view["source"] for view in lines_of(result) if view["name"] == "home")

    monkeypatch.setattr(config.platformdirs, "user_data_path", lambda _name: home)
    assert source() == "default"
    monkeypatch.setenv("MESHNODE_HOME", str(home))
    assert source() == "environment"


def test_passwords_in_urls_are_not_shown(meshnode, home):
    (home / "config.toml").write_text('bootstrap = ["ws://ada:geheim@host:1/?token=geheim", "ws://b:2"]\n')
    for words in (("show",), ("show", "--json"), ("get", "bootstrap"), ("unset", "bootstrap")):
        assert "geheim" not in meshnode(*words).output
    (home / "config.toml").write_text('bootstrap = ["ws://ada:geheim@host:1"]\n')
    assert meshnode("get", "bootstrap").stdout == '["ws://***@host:1"]\n'


def test_one_value_for_people_scripts_and_programs(meshnode, file):
    assert meshnode("get", "name").stdout == "desk\n"
    assert meshnode("get", "slots").stdout == "8\n"
    assert meshnode("get", "relay").stdout == "true\n"
    assert meshnode("get", "models").stdout == '["a:1b","b:2b"]\n'
    assert lines_of(meshnode("get", "slots", "--json"))[0]["source"] == "default"
    for words in (("get", "slotz"), ("set", "slotz", "1"), ("unset", "slotz")):
        refused = meshnode(*words, code=exits.USAGE).stderr
        assert refused == "error: There is no setting 'slotz'.\nhint: Did you mean slots?\n"


def test_a_change_leaves_comments_and_all_else_as_it_was(meshnode, file):
    said = meshnode("set", "name", "attic").stdout
    assert said == f'name = "attic" in {file}; it was "desk".\n'
    assert file.read_text() == FILE.replace('"desk"', '"attic"')
    meshnode("set", "memory_mb", "4096")
    assert file.read_text().index("memory_mb = 4096\n") < file.read_text().index("[[upstreams]]")
    for line in FILE.replace('"desk"', '"attic"').splitlines():
        assert line in file.read_text()
    assert config.load(file.parent, {}, {}).memory_mb == 4096
    assert meshnode("set", "memory_mb", "4096").stdout == f"memory_mb is 4096 in {file} already.\n"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("slots", "4", 4),
        ("relay", "false", False),
        ("usd_s", "1.5", 1.5),
        ("models", "a:1b, b:2b", ["a:1b", "b:2b"]),
        ("models", '["a:1b"]', ["a:1b"]),
        ("models", "", []),
        ("name", "[desk]", "[desk]"),
        ("name", 'a"b\\', 'a"b\\'),
        ("engine", "none", "none"),
        ("cache", "off", "off"),
        ("upstreams", '[{url = "http://127.0.0.1:1", context = 5}]', [{"url": "http://127.0.0.1:1", "context": 5}]),
    ],
)  # fmt: skip
def test_what_is_set_is_what_a_node_reads(meshnode, home, key, text, value):
    (change,) = lines_of(meshnode("set", key, text, "--json"))
    assert (change["before"], change["after"], change["changed"]) == (None, value, True)
    assert tomllib.loads((home / "config.toml").read_text()) == {key: value}
    assert lines_of(meshnode("get", key, "--json"))[0]["source"] == "file"
    assert stat.S_IMODE((home / "config.toml").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("slotz", "4", "Did you mean slots?"),
        ("slots", "many", "slots"),
        ("slots", "0", "slots"),
        ("name", "a\nb", "name"),
        ("engine", "gpt", "engine"),
        ("upstream", "http://192.0.2.1:1", "not on this machine"),
        ("upstreams", '[{url = "http://127.0.0.1:1", wrong = 5}]', "wrong"),
        ("upstreams", '[{url = "x"]', "TOML"),
        ("upstreams", "http://127.0.0.1:1", "upstreams"),
        ("models", '["a"]\nname = "smuggled"\nx = ["b"]', "models"),
        ("api_origins", "*", "api_origins"),
        ("spare_hours", "never", "spare_hours"),
        ("home", "/tmp", "--home"),
    ],
)
def test_what_a_node_could_not_start_with_is_not_written(meshnode, file, key, text, why):
    refused = meshnode("set", key, text, code=exits.USAGE)
    assert why in refused.stderr
    assert file.read_text() == FILE
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]


def test_a_value_that_fits_alone_but_not_with_the_rest_is_refused(meshnode, file):
    assert "twice" in meshnode("set", "upstream", "http://127.0.0.1:11434", code=exits.USAGE).stderr
    assert file.read_text() == FILE


def test_a_setting_is_taken_out(meshnode, file):
    assert meshnode("unset", "models").stdout == f'models is no longer in {file}; it was ["a:1b","b:2b"].\n'
    assert file.read_text() == FILE.replace('models = ["a:1b", "b:2b"]\n', "")
    assert meshnode("unset", "models").stdout == f"models is not in {file}.\n"
    (change,) = lines_of(meshnode("unset", "upstreams", "--json"))
    assert (change["after"], change["changed"]) == (None, True)
    assert "upstreams" not in tomllib.loads(file.read_text())
    meshnode("unset", "modelz", code=exits.USAGE)


def test_a_file_that_no_node_can_read_is_mended_setting_by_setting(meshnode, file):
    file.write_text(FILE.replace("[[ups", 'slotz = 4\nengine = "gpt"\n[[ups'))
    for verb in (("show",), ("get", "name"), ("set", "name", "x")):
        assert "slotz" in meshnode(*verb, code=exits.USAGE).stderr
    meshnode("unset", "slotz")
    assert "engine" in meshnode("show", code=exits.USAGE).stderr
    meshnode("set", "engine", "none")
    assert meshnode("get", "engine").stdout == "none\n"


@pytest.mark.parametrize("broken", [b"name = ", b"\xff\xfe", b"#" * (FILE_BYTES_MAX + 1)])
def test_a_file_that_is_no_toml_is_refused_and_left(meshnode, home, broken):
    (home / "config.toml").write_bytes(broken)
    for verb in (("show",), ("set", "name", "x"), ("unset", "name")):
        meshnode(*verb, code=exits.USAGE)
    assert (home / "config.toml").read_bytes() == broken


def test_a_file_that_would_grow_too_large_is_not_written(meshnode, home):
    content = b"#" * (FILE_BYTES_MAX - 10) + b"\n"
    (home / "config.toml").write_bytes(content)
    assert "larger" in meshnode("set", "name", "x" * 60, code=exits.USAGE).stderr
    assert (home / "config.toml").read_bytes() == content


def test_a_link_stays_a_link_and_the_mode_stays(meshnode, home):
    real = home / "dotfiles" / "meshnode.toml"
    real.parent.mkdir()
    real.write_text(FILE)
    real.chmod(0o640)
    (home / "config.toml").symlink_to(real)
    meshnode("set", "name", "attic")
    assert (home / "config.toml").is_symlink()
    assert 'name = "attic"' in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(meshnode, file, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meshnode.toml_file.os.fsync", full)
    assert "No space left" in meshnode("set", "name", "x", code=exits.TABLE["home_unusable"]).stderr
    assert file.read_text() == FILE
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]


def test_an_edit_that_would_say_something_else_is_not_written(meshnode, file, monkeypatch):
    import tomlkit

    monkeypatch.setattr(tomlkit, "dumps", lambda document: 'name = "x"\n')
    with pytest.raises(MeshError, match="editor"):
        from meshnode.control.settings import set_setting

        set_setting("slots", "4", file.parent, {})
    assert file.read_text() == FILE


def test_changes_at_the_same_time_lose_nothing(home):
    """Eight at once; each reads the file after the one before has written it."""
    from meshnode.control.settings import set_setting

    keys = ("slots", "threads", "memory_mb", "context", "cache_mb", "audit_mb", "api_requests", "mesh_port")
    gate = threading.Barrier(len(keys))

    def change(key):
        gate.wait()
        set_setting(key, "5", home, {})

    threads = [threading.Thread(target=change, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tomllib.loads((home / "config.toml").read_text()) == dict.fromkeys(keys, 5)


def test_a_running_node_has_to_be_restarted(node, meshnode):
    (change,) = lines_of(meshnode("set", "name", "x", "--json"))
    assert change["restart"] is True
    assert "restart it" in meshnode("set", "name", "y").stdout
    assert "restart" not in meshnode("set", "name", "y").stdout
    assert "restart it" in meshnode("unset", "name").stdout


def test_a_variable_that_outweighs_the_file_is_named(meshnode, file, monkeypatch):
    monkeypatch.setenv("MESHNODE_SLOTS", "3")
    assert "MESHNODE_SLOTS is set in this environment" in meshnode("set", "slots", "4").stdout
    assert meshnode("get", "slots").stdout == "3\n"


def test_where_the_file_is(meshnode, home):
    assert meshnode("path").stdout == f"{home / 'config.toml'}\n"
    assert lines_of(meshnode("path", "--json")) == [{"path": str(home / "config.toml"), "exists": False}]


def test_a_new_home_is_made_private(meshnode, home):
    place = home / "new" / "home"
    result = CliRunner().invoke(program, ["config", "set", "--home", str(place), "slots", "2"])
    assert result.exit_code == 0
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_value_may_begin_with_a_hyphen(meshnode):
    meshnode("set", "name", "--", "-desk")
    assert meshnode("get", "name").stdout == "-desk\n"


def test_as_a_process_of_its_own(home):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MESHNODE_HOME": str(home)}

    def run(*words):
        command = [sys.executable, "-m", "meshnode.cli.main", "config", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    run("set", "slots", "2")
    assert run("get", "slots") == "2\n"


def test_the_file_stays_its_owners(meshnode, file, monkeypatch):
    """As with sudo: the node, which is not root, could not read it any more."""
    given = []
    monkeypatch.setattr("meshnode.toml_file.os.getuid", lambda: file.stat().st_uid + 1)
    monkeypatch.setattr("meshnode.toml_file.os.fchown", lambda _descriptor, *owner: given.append(owner))
    meshnode("set", "name", "attic")
    assert given == [(file.stat().st_uid, file.stat().st_gid)]
