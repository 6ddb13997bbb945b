"""How a mesh holds up: joining, crashes, partitions, idle talk and broken streams, simulated, seed after seed.

Every figure is of virtual time on the simulator's network, with whole nodes; beside each stands what was promised,
and what others publish for theirs. `python scripts/bench/mesh.py [--json] [--seeds N] [--only WORDS] [--jobs N]
[--matrix FILE]`: with a table of measured round trips (Seattle's, from the NetLatency-Data set on GitHub) delays are
real ones.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

from reliability import (  # noqa: E402 - the paths come first
    churn,
    clocks,
    crashes,
    hostile,
    joining,
    partitions,
    streams,
    traffic,
)
from reliability.common import Play, Test, Values  # noqa: E402
from shape import Row, arguments, percentile, report  # noqa: E402

from meshnode.testing.roundtrips import Matrix, read_matrix  # noqa: E402
from meshnode.testing.simulation import simulate  # noqa: E402

Played = Values | tuple[Values, ...]
TESTS = (
    *joining.TESTS,
    *crashes.TESTS,
    *traffic.TESTS,
    *partitions.TESTS,
    *streams.TESTS,
    *hostile.TESTS,
    *churn.TESTS,
    *clocks.TESTS,
)


def played(number: int, seed: int, matrix: Matrix | None) -> Played:
    """What one row plays with one seed, in a process of its own."""
    test = TESTS[number]
    return simulate(seed, test.play, matrix=matrix if test.matrix else None)


def values_of(test: Test, played: Played) -> Values:
    """What is this row's of what was played."""
    return played if test.part is None else played[test.part]  # type: ignore[return-value]


def measured(test: Test, outcomes: Sequence[Future[Played]]) -> Row:
    """The row, once all its seeds have been played."""
    values = [value for outcome in outcomes for value in values_of(test, outcome.result())]
    value = percentile(values, test.percentile)
    name = f"{test.name}, p{test.percentile} of {len(outcomes)} seeds"
    print(f"{name}: {value:.2f} {test.unit}", file=sys.stderr)
    scale, unit = (1000, "ms") if test.unit == "s" else (1, test.unit)
    return Row(name, value * scale, unit, test.bound * scale, test.anchor, "<= 1")


def main() -> int:
    """Parse, play, report."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, help="so many for every row, instead of each row's own")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds played at once")
    parser.add_argument("--only", default="", help="only rows with this in their name")
    parser.add_argument("--matrix", type=Path, help="measured round trips in seconds, a square table")
    given = parser.parse_args()
    matrix = read_matrix(given.matrix) if given.matrix else None
    wanted = [(number, test) for number, test in enumerate(TESTS) if given.only in test.name]
    with ProcessPoolExecutor(given.jobs) as pool:
        begun: dict[Play, list[Future[Played]]] = {}
        for number, test in wanted:
            seeds = range(given.seeds or test.seeds)
            if test.play not in begun:
                begun[test.play] = [pool.submit(played, number, seed, matrix) for seed in seeds]
        rows = [measured(test, begun[test.play]) for _, test in wanted]
    return report("mesh", rows, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
