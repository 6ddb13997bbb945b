"""How a mesh grows: 100, 300 and 1,000 whole nodes in one process, simulated, and what that costs.

`python scripts/bench/scale.py [--json] [--sizes 100,300] [--seed N] [--profile FILE]`: beside each figure stands what
was promised.
The last rows are the simulation's own cost on this machine, and how it grew since the size before.
"""

import cProfile
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

from reliability import scale  # noqa: E402 - the paths come first
from reliability.scale import Measured  # noqa: E402
from shape import Row, arguments, percentile, report  # noqa: E402

from meshnode.testing.simulation import simulate  # noqa: E402

JOINED_S = 10.0
CONVERGED_S = {100: 10.0, 300: 20.0, 1000: 60.0}
KILOBYTES_PER_S = {100: 20.0, 300: 30.0, 1000: 50.0}
ROUNDS = 4
LINKS = 128


def played(count: int, seed: int, profile: str) -> Measured:
    """One size, in a process of its own, so that its memory is its own."""
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    measured = simulate(seed, lambda simulation: scale.play(simulation, count))
    if profile:
        profiler.disable()
        profiler.dump_stats(profile)
    return measured


def rows_of(one: Measured) -> list[Row]:
    """What was promised, and what it is."""
    n = one.nodes
    nearest = min(CONVERGED_S, key=lambda size: abs(size - n))
    lost = one.looked_up - one.found
    return [
        Row(f"{n} nodes: joined, p99", percentile(one.joined_s, 99), "s", JOINED_S, "promised", "<= 1"),
        Row(f"{n} nodes: all know all", one.converged_s, "s", CONVERGED_S[nearest], "promised", "<= 1"),
        Row(
            f"{n} nodes: a node says, while idle, mean",
            mean(one.kilobytes_per_s),
            "kB/s",
            KILOBYTES_PER_S[nearest],
            "promised",
            "<= 1",
        ),
        Row(f"{n} nodes: links of a node, most", max(one.links), "", LINKS, "bound", "<= 1"),
        Row(f"{n} nodes: provider lookups that found one", one.found, "", one.found + lost, "asked", ">= 1"),
        Row(f"{n} nodes: rounds to a provider, median", median(one.rounds), "", ROUNDS, "promised", "<= 1"),
    ]


def cost_of(one: Measured, before: Measured) -> list[Row]:
    """What the simulation cost, against the size before."""
    n, rival = one.nodes, f"{before.nodes} nodes"
    parts = [
        Row(f"{n} nodes: simulation, {part}", cpu_s, "CPU s", before.cpu_s[part], rival)
        for part, cpu_s in one.cpu_s.items()
    ]
    wall_s, wall_before_s = sum(one.wall_s.values()), sum(before.wall_s.values())
    return [
        *parts,
        Row(f"{n} nodes: simulation, wall clock", wall_s, "s", wall_before_s, rival),
        Row(
            f"{n} nodes: simulation, peak memory",
            one.peak_bytes / 2**20,
            "MiB",
            before.peak_bytes / 2**20,
            rival,
        ),
    ]


def main() -> int:
    """Parse, play, report."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", default="100,300,1000", help="numbers of nodes, smallest first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="", help="where cProfile's figures of the last size go")
    given = parser.parse_args()
    rows: list[Row] = []
    before: Measured | None = None
    for count in map(int, given.sizes.split(",")):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            one = pool.submit(played, count, given.seed, given.profile).result()
        rows += rows_of(one) + cost_of(one, before or one)
        before = one
    return report("scale", rows, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
