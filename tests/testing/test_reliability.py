"""Three seeds of every row of scripts/bench/mesh.py that takes seconds; the others have small versions elsewhere."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "bench"))

from reliability import clocks, crashes, joining, partitions, streams, traffic  # type: ignore[import-not-found]

from meshnode.testing.simulation import simulate

SEEDS = range(3)
ROWS = [
    row
    for module in (joining, crashes, traffic, partitions, streams, clocks)
    for row in module.TESTS
    if not row.long
]
Played = dict[tuple[Any, int], Future[Any]]


def played(number: int, seed: int) -> Any:
    """What a row plays with one seed."""
    return simulate(seed, ROWS[number].play)


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Played]:
    """All of them, played beside each other."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        plays = {row.play: number for number, row in enumerate(ROWS)}
        yield {
            (play, seed): pool.submit(played, number, seed)
            for play, number in plays.items()
            for seed in SEEDS
        }


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_row_holds(row: Any, seed: int, outcomes: Played) -> None:
    values = outcomes[row.play, seed].result()
    assert max(values if row.part is None else values[row.part]) <= row.bound
