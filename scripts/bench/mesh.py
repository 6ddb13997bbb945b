"""How a mesh holds up: joining, crashes, partitions, idle talk and broken streams, simulated, seed after seed.

Every figure is of virtual time on the simulator's network, with whole nodes; beside each stands what was promised,
and what others publish for theirs. `python scripts/bench/mesh.py [--json] [--seeds N] [--only WORDS]
[--matrix FILE]`: with a table of measured round trips (Seattle's, from the NetLatency-Data set on GitHub) delays are
real ones.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

from reliability import crashes, joining, partitions, streams, traffic  # noqa: E402 - the paths come first
from reliability.common import Test  # noqa: E402
from shape import Row, arguments, percentile, report  # noqa: E402

from meshnode.testing.roundtrips import Matrix, read_matrix  # noqa: E402
from meshnode.testing.simulation import simulate  # noqa: E402

TESTS = (*joining.TESTS, *crashes.TESTS, *traffic.TESTS, *partitions.TESTS, *streams.TESTS)


def measured(test: Test, seeds: int, matrix: Matrix | None) -> Row:
    """Play a test with every seed."""
    values: list[float] = []
    for seed in range(seeds):
        values += simulate(seed, test.play, matrix=matrix if test.matrix else None)
    value = percentile(values, test.percentile)
    name = f"{test.name}, p{test.percentile} of {seeds} seeds"
    print(f"{name}: {value:.2f} {test.unit}", file=sys.stderr)
    scale, unit = (1000, "ms") if test.unit == "s" else (1, test.unit)
    return Row(name, value * scale, unit, test.bound * scale, test.anchor, "<= 1")


def main() -> int:
    """Parse, play, report."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, help="so many for every row, instead of each row's own")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    parser.add_argument("--matrix", type=Path, help="measured round trips in seconds, a square table")
    given = parser.parse_args()
    matrix = read_matrix(given.matrix) if given.matrix else None
    rows = [measured(test, given.seeds or test.seeds, matrix) for test in TESTS if given.only in test.name]
    return report("mesh", rows, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
