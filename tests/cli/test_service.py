"""`meshnode service`: files that the service managers themselves accept, and commands that reach them."""

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshnode.cli import exits
from meshnode.cli.program import program
from meshnode.cli.service import launchd, systemd
from meshnode.cli.service.unit import Wanted
from meshnode.errors import BadRequest
from tests.cli.fake_node import lines_of

ODD = 'a b%c$d"e\\f'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user's places in a directory of their own, on a system without a service manager."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(systemd, "BOOTED", tmp_path / "booted")
    return tmp_path / "config" / "systemd" / "user" / "meshnode.service"


@pytest.fixture
def manager(tmp_path, monkeypatch, place):
    """A systemd that runs; what it is asked stands in the file."""
    asked, programs = tmp_path / "asked", tmp_path / "bin"
    (tmp_path / "booted").mkdir()
    (tmp_path / "run" / "systemd").mkdir(parents=True)
    (tmp_path / "run" / "systemd" / "private").touch()
    programs.mkdir()
    script = programs / "systemctl"
    failing = f"test -e {tmp_path}/broken && echo no && exit 1"
    script.write_text(f'#!/bin/sh\necho "$*" >> {asked}\n{failing}\necho active\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return asked


@pytest.fixture
def service(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")

    def invoke(*args, code=0):
        result = CliRunner().invoke(program, ["service", *args, "--home", str(tmp_path / "home")])
        assert result.exit_code == code, result.output
        return result

    return invoke


def verified(path, *flags, env=None):
    done = subprocess.run(
        ["systemd-analyze", *flags, "verify", path], capture_output=True, text=True, env=env, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("system", [False, True])
def test_systemd_accepts_the_unit(tmp_path, system):
    unit = systemd.unit(Wanted(tmp_path / ODD, system=system, user="root" if system else ""))
    path = tmp_path / "meshnode.service"
    path.write_bytes(unit.content)
    env = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    flags = () if system else ("--user",)
    code, said = verified(path, *flags, env=env)
    assert (code, str(path) in said) == (0, False), said
    path.write_bytes(unit.content.replace(b"Restart=on-failure", b"Restart=when-it-likes"))
    assert "when-it-likes" in verified(path, *flags, env=env)[1]


def test_a_unit_takes_paths_as_they_are():
    text = systemd.unit(Wanted(Path("/x") / ODD)).content.decode()
    assert 'ExecStart=:"' in text
    assert '"--home" "/x/a b%%c$d\\"e\\\\f"' in text
    assert f'"{sys.executable}"' in text
    with pytest.raises(BadRequest):
        systemd.unit(Wanted(Path("/x\nExecStartPre=/bin/evil")))
    with pytest.raises(BadRequest):
        systemd.unit(Wanted(Path("/x"), system=True, user="root\nExecStartPre=/bin/evil"))


def test_what_a_start_cannot_mend_is_not_tried_again():
    text = systemd.unit(Wanted(Path("/x"), drain_s=40)).content.decode()
    assert f"RestartPreventExitStatus={exits.USAGE} {exits.TABLE['home_unusable']}\n" in text
    assert "TimeoutStopSec=55\n" in text


@pytest.mark.parametrize("system", [False, True])
def test_launchd_gets_a_property_list(place, system):
    unit = launchd.unit(Wanted(Path("/x") / ODD, name="second", system=system, user="ann" if system else ""))
    content = plistlib.loads(unit.content)
    assert content["ProgramArguments"][-2:] == ["--home", f"/x/{ODD}"]
    assert content["ProgramArguments"][0] == sys.executable
    assert (content["Label"], content.get("UserName")) == ("local.second", "ann" if system else None)
    assert content["KeepAlive"] == {"SuccessfulExit": False}
    assert content["Umask"] == 0o077
    assert unit.path.name == "local.second.plist"
    assert unit.path.is_relative_to("/Library/LaunchDaemons" if system else place.parents[3])
    assert unit.start[0][:2] == ("launchctl", "bootstrap")


def test_print_shows_and_writes_nothing(service, place):
    shown = service("install", "--print").stdout
    assert "ExecStart=" in shown
    assert "systemctl --user enable --now meshnode.service" in shown
    assert not place.exists()
    (view,) = lines_of(service("install", "--print", "--json"))
    assert view["content"].startswith("[Unit]")


def test_without_a_service_manager_it_says_how_to_start_it(service, place):
    shown = service("install").stdout
    assert place.read_bytes().startswith(b"[Unit]")
    assert "  systemctl --user enable --now meshnode.service" in shown
    assert "loginctl enable-linger" in shown
    assert "no service manager runs here" in service("status").stdout
    assert f"Removed {place}." in service("uninstall").stdout
    assert not place.exists()
    assert "There is no" in service("uninstall").stdout
    assert "Not installed" in service("status").stdout


def test_with_one_it_is_started_asked_and_stopped(service, place, manager):
    (view,) = lines_of(service("install", "--json"))
    assert (view["runs"], view["commands"]) == (True, [])
    (view,) = lines_of(service("status", "--json"))
    assert (view["installed"], view["runs"], view["state"]) == (True, True, "active")
    service("uninstall")
    assert [line.removeprefix("--user ") for line in manager.read_text().splitlines()] == [
        "daemon-reload",
        "enable --now meshnode.service",
        "is-active meshnode.service",
        "disable --now meshnode.service",
        "daemon-reload",
    ]


def test_a_manager_that_refuses_is_an_error_with_its_words(service, manager, tmp_path):
    (tmp_path / "broken").touch()
    result = service("install", code=exits.TABLE["service_failed"])
    assert "daemon-reload` failed: no" in result.stderr


def test_a_file_that_says_something_else_stays(service, place):
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    service("install", code=exits.TABLE["not_allowed"])
    assert place.read_text() == "mine"
    service("install", "--force")
    assert "ExecStart" in place.read_text()
    service("install")


def test_a_place_that_cannot_be_written_says_so(service, place):
    place.parent.parent.mkdir(parents=True)
    place.parent.write_text("a file where the directory would be")
    result = service("install", code=exits.TABLE["service_failed"])
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize("name", ["../evil", "A", "", "x" * 33])
def test_a_name_is_a_name(service, name):
    service("install", "--print", "--name", name, code=exits.USAGE)


def test_bad_settings_are_refused_before_anything_is_written(service, place, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("slots = 0\n")
    service("install", code=exits.USAGE)
    assert not place.exists()
