"""The pytest plugin, as a user's own test suite meets it: in a process and a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

TEST = """
import pytest
import trio

def test_answers_survive_a_partition(mesh):
    async def play(simulation):
        a = await simulation.start("a", engine="none")
        b = await simulation.start("b")
        await b.join(await a.invite())
        await simulation.until(a.models)
        simulation.partition("a", "b")
        await trio.sleep(20)
        simulation.heal()
        await simulation.until(lambda: a.snapshot().links)
        async with a.ask("Are you back?", max_tokens=5) as running:
            assert running.answer.served_by.startswith("b")
        assert not simulation.seed == 2, "seed 2 is no good"

    mesh(play)
"""


GUIDE = Path(__file__).parents[2] / "docs" / "simulate.md"


def pytest_in(folder: Path, *options: str, tests: tuple[str, ...] = (TEST,)) -> str:
    """What pytest prints about these tests."""
    for number, test in enumerate(tests):
        (folder / f"test_{number}.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "meshnode.testing.plugin", "-v", *options, str(folder)]
    done = subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout + done.stderr


def test_a_test_runs_with_as_many_seeds_as_asked_for_and_names_the_one_that_fails(tmp_path: Path) -> None:
    told = pytest_in(tmp_path, "--mesh-seeds", "4")
    assert "3 passed" in told
    assert "1 failed" in told
    assert "test_answers_survive_a_partition[seed=2]" in told
    assert "Seed 2 does this every time" in told
    assert "partition: a | b" in told


def test_one_seed_alone(tmp_path: Path) -> None:
    assert "1 passed" in pytest_in(tmp_path, "--mesh-seed", "7")
    assert "seed=7" in pytest_in(tmp_path, "--mesh-seed", "7")


def test_the_guides_own_tests_pass(tmp_path: Path) -> None:
    *_, one, other = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    told = pytest_in(tmp_path, "--mesh-seeds", "3", "-W", "error", tests=(one, other))
    assert "4 passed" in told, told
