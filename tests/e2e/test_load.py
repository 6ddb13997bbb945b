"""A short form of scripts/bench/load.py: two hundred streams at once, twenty slow readers, idle connections.

What may not depend on the machine's pace has the benchmark's bounds; how even the streams come has a wider one.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import surroundings

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench" / "load.py"
OPTIONS = ("--hops", "0", "--streams", "200", "--slow", "20", "--seconds", "4", "--json")
WITHIN_S = 120.0
GAP_MS = 1000.0


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """The benchmark's rows, by what they are called."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *OPTIONS],
        env=surroundings(),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.stdout, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)["rows"]}


@pytest.mark.parametrize("what", ["dropped", "memory gained", "still served", "kept", "refused", "answered"])
def test_nothing_is_dropped_and_everything_is_bounded(rows: dict[str, dict[str, Any]], what: str) -> None:
    found = [row for name, row in rows.items() if what in name]
    assert found
    assert [row["name"] for row in found if not row["holds"]] == []


def test_streams_come_evenly_also_beside_slow_readers(rows: dict[str, dict[str, Any]]) -> None:
    gaps = [row["value"] for name, row in rows.items() if "gap, p99" in name]
    assert len(gaps) == 2
    assert max(gaps) < GAP_MS
