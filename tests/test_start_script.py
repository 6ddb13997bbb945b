"""What `scripts/start` sets up and fetches, by its arguments, with stand-ins for what it calls."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CALLED = '#!/bin/sh\necho "$(basename "$0") $*" >> "$LOG"\n'


def started(folder: Path, *arguments: str, code: int = 0, **env: str) -> tuple[list[str], str]:
    """The programs that it called, with their arguments, and what it said."""
    for path in ("scripts/setup", ".venv/bin/python", ".venv/bin/meshnode"):
        program = folder / path
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(CALLED)
        program.chmod(0o755)
    (folder / "scripts" / "start").write_bytes((ROOT / "scripts" / "start").read_bytes())
    log = folder / "log"
    log.unlink(missing_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MESHNODE_")}
    command = ["bash", str(folder / "scripts" / "start"), *arguments]
    done = subprocess.run(
        command, env={**clean, "LOG": str(log), **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return log.read_text().splitlines() if log.exists() else [], done.stderr


def test_a_node_gets_a_worker_and_the_small_model(tmp_path: Path) -> None:
    called = ["setup worker", "python -m meshnode.models", "meshnode up --lan"]
    assert started(tmp_path, "--lan")[0] == called


@pytest.mark.parametrize("option", [["--engine", "none"], ["--engine=none"], ["--engine", "scripted"]])
def test_without_a_model_of_its_own_nothing_is_built_or_fetched(tmp_path: Path, option: list[str]) -> None:
    called, _ = started(tmp_path, "--join", "mesh1abc", *option, "--ask", "Why?")
    assert called == ["setup node", f"meshnode join mesh1abc {' '.join(option)} --ask Why?"]


def test_the_environment_may_say_so_too_and_an_option_outweighs_it(tmp_path: Path) -> None:
    assert started(tmp_path, MESHNODE_ENGINE="none")[0] == ["setup node", "meshnode up"]
    called, _ = started(tmp_path, "--engine", "llama", MESHNODE_ENGINE="none")
    assert called[0] == "setup worker"


def test_another_model_is_left_to_the_node(tmp_path: Path) -> None:
    assert started(tmp_path, "--model", "m:1")[0] == ["setup worker", "meshnode up --model m:1"]


def test_join_without_a_ticket_says_where_to_get_one(tmp_path: Path) -> None:
    called, said = started(tmp_path, "--join", code=2)
    assert not any(line.startswith("meshnode") for line in called)
    assert said.startswith("error: --join needs a ticket\nhint: scripts/start on the first device prints one")
