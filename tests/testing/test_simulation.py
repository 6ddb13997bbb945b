"""One seed, one trace: in any process, whatever Python's hash seed."""

import os
import subprocess
import sys
from pathlib import Path

import trio

from meshnode.testing.clock import run_virtual

PLAY = Path(__file__).with_name("play.py")


def trace_of(seed: int, hash_seed: int) -> str:
    """What the play prints in a process of its own."""
    env = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, PLAY, str(seed)], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_one_seed_is_one_trace_in_any_process() -> None:
    first, second = trace_of(7, hash_seed=1), trace_of(7, hash_seed=4242)
    assert first == second
    messages, digest = first.split()
    assert int(messages) > 50
    assert len(digest) == 64


def test_another_seed_is_another_trace() -> None:
    assert trace_of(8, hash_seed=1) != trace_of(7, hash_seed=1)


def test_the_schedule_follows_the_seed_alone() -> None:
    async def race() -> list[int]:
        order: list[int] = []

        async def run(number: int) -> None:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(run, number)
        return order

    assert run_virtual(1, race) == run_virtual(1, race)
    assert len({tuple(run_virtual(seed, race)) for seed in range(8)}) > 1
