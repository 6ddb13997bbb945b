"""The parsers hold whatever is fed to them: fresh inputs that follow their coverage, and all that ever failed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

HERE = Path(__file__).resolve().parent
CASES = sorted((HERE / "cases").glob("*/*"))
INPUTS = 100_000


@pytest.mark.slow
def test_a_hundred_thousand_inputs_each() -> None:
    pytest.importorskip("atheris")
    running = {
        name: subprocess.Popen(
            [sys.executable, HERE / "run.py", name, "--inputs", str(INPUTS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in TARGETS
    }
    said = {name: process.communicate() for name, process in running.items()}
    for name, process in running.items():
        out, errors = said[name]
        assert process.returncode == 0, errors[-3000:] + out
        assert json.loads(out)["inputs"] == INPUTS


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_what_once_failed_holds(case: Path) -> None:
    TARGETS[case.parent.name].take(case.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_first_inputs_reach_what_is_behind_the_walls(name: str) -> None:
    target = TARGETS[name]
    for data in target.seeds():
        target.take(data)
