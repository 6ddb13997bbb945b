"""Measured round trips between real devices, for a simulation to take its delays from."""

import statistics
from collections.abc import Sequence
from pathlib import Path

LONGEST_S = 1.0

Matrix = tuple[tuple[float, ...], ...]
"""Seconds from row to column; square."""


def read_matrix(path: Path | str) -> Matrix:
    """Read a square table of round trips in seconds, a row a line. Raises ValueError.

    Such measurements have holes: zeros outside the diagonal take the median of their row, and what is longer
    than LONGEST_S counts as that.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    rows = [tuple(map(float, line.split())) for line in lines if line.strip()]
    if not rows or any(len(row) != len(rows) for row in rows):
        raise ValueError(f"{path} is not a square table of numbers.")
    if min(map(min, rows)) < 0:
        raise ValueError(f"{path} has a negative round trip in it.")
    return tuple(_mended(number, row) for number, row in enumerate(rows))


def _mended(number: int, row: Sequence[float]) -> tuple[float, ...]:
    others = [rtt for column, rtt in enumerate(row) if column != number and rtt > 0]
    middle = statistics.median(others) if others else 0.0
    mended = (0.0 if column == number else min(rtt or middle, LONGEST_S) for column, rtt in enumerate(row))
    return tuple(mended)
