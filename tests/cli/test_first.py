"""A first hour at the command line: how commands are spelt, and a first question that waits for an answerer."""

import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from click.testing import CliRunner

from meshnode import __version__
from meshnode.cli import first, up
from meshnode.cli.program import program
from meshnode.cli.render import Screen
from meshnode.cli.spelling import joining, spelt, typed


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout from which the program was started as `scripts/start` does, in the folder above it."""
    root = tmp_path / "my clone"
    for path in (root / "scripts" / "start", root / ".venv" / "bin" / "meshnode"):
        path.parent.mkdir(parents=True)
        path.touch()
        path.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(root / ".venv" / "bin" / "meshnode"), "up"])
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    return root


def test_from_a_clone_commands_are_spelt_so_that_they_can_be_typed(clone: Path) -> None:
    assert joining("mesh1abc") == "'my clone/scripts/start' --join mesh1abc"
    assert spelt("Run `meshnode up` or meshnode.") == "Run `'my clone/.venv/bin/meshnode' up` or meshnode."


def test_in_another_folder_the_whole_path_is_typed(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert typed("up") == f"'{clone.relative_to('/')}/.venv/bin/meshnode' up"
    monkeypatch.chdir(Path(sys.executable).parent)
    assert typed("up") == f"'{clone}/.venv/bin/meshnode' up"


def test_what_is_on_the_path_is_called_by_its_name(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(clone / ".venv" / "bin"))
    assert joining("mesh1abc") == "meshnode join mesh1abc"
    assert spelt("`meshnode up`") == "`meshnode up`"


def test_what_was_installed_otherwise_is_called_by_its_name(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / "scripts" / "start").unlink()
    assert typed("up") == "meshnode up"
    monkeypatch.setattr(sys, "argv", ["main.py"])
    assert typed("up") == "meshnode up"


def test_the_steps_of_loading_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    tell = up.Teller(Screen(as_json=False))
    loading = {"event": "loading", "model": "m:1"}
    for event in (loading, {"event": "mesh", "addresses": ["ws://a"]}, loading | {"detail": "opening it"}):
        tell(event)
    assert capsys.readouterr().out.count("Loading m:1") == 1
    tell({"event": "error", "message": "it broke", "model": "m:1"})
    tell(loading)
    assert capsys.readouterr().out.count("Loading m:1") == 1


async def test_a_question_that_nobody_answers_ends_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody in the mesh has a model; it says what it waits for, then that it gave up, and the node runs on."""
    monkeypatch.setattr(first, "ANSWERER_WITHIN_S", 0.2)
    monkeypatch.setattr(first, "PATIENCE_S", 0.0)

    async def status(_home: Path) -> object:
        await trio.lowlevel.checkpoint()
        return first.Snapshot(node="a" * 32, name="a", state="ready")

    monkeypatch.setattr(first.client, "status", status)
    heard: list[dict[str, object]] = []
    curious = first.Curious(Screen(as_json=False), tmp_path, heard.append, "joined")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(curious.ask, "Why?")
            curious({"event": "mesh"})
            await trio.testing.wait_all_tasks_blocked()
            assert "note" not in capsys.readouterr().err
            curious({"event": "joined"})
    shown = capsys.readouterr()
    assert [event["event"] for event in heard] == ["mesh", "joined"]
    assert "note: waiting for a node of the mesh that has a model" in shown.err
    assert "hint: `meshnode models` lists" in shown.err
    assert "This node runs on" in shown.out


def test_the_version_is_where_people_look_for_it() -> None:
    assert CliRunner().invoke(program, ["--version"]).output == f"meshnode {__version__}\n"
