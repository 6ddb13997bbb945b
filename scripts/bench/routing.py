"""How well requests are routed: the time to the first token on a fleet of unequal machines, against other policies.

A production trace (Azure's LLM conversations of 2023, from AzurePublicDataset on GitHub, CC BY 4.0) is replayed at
three loads on 10 and on 50 machines whose speeds are spread 60 times, over measured round trips (Seattle's, from the
NetLatency-Data set on GitHub), with gossip that is 1, 5 and 15 s old, in virtual time. The routing is the project's
own code; beside it run the usual policies, LiteLLM's, and the same score with all there is to know for nothing.
`python scripts/bench/routing.py [--json] [--trace FILE] [--rtt FILE] [--requests N] [--short] [--jobs N]`
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DATA = ROOT.parent / "shared" / "data"
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

from fleets import ours, plain, plays  # noqa: E402 - the paths come first
from fleets.cells import Cell, played  # noqa: E402
from shape import Row, arguments, report, rival_python  # noqa: E402

OURS, BOUND = "meshnode", "omniscient"
POLICIES: dict[str, Any] = {
    OURS: ours.Meshnode,
    BOUND: ours.Omniscient,
    "random": plain.Random,
    "round robin": plain.RoundRobin,
    "least loaded by gossip": plain.LeastLoaded,
    "two choices": plain.TwoChoices,
}
LITELLM = ("litellm least-busy", "litellm latency-based-routing")
BY_GOSSIP = (OURS, "least loaded by gossip", "two choices")
MACHINES, LOADS, GOSSIPS_S = (10, 50), (0.5, 0.75, 0.9), (1.0, 5.0, 15.0)
NO_GOSSIP_S = 1e9
PROMISED_LOAD = 0.75
REQUESTS, SHORT_REQUESTS = 1500, 600
Results = dict[tuple[str, int, float, float], dict[str, Any]]


def cells_of(base: Cell, policies: Iterable[str], *, short: bool) -> Iterator[Cell]:
    """Every cell once: who does not listen to gossip is played once for all of it."""
    for policy in policies:
        for machines in MACHINES[:1] if short else MACHINES:
            for load in (PROMISED_LOAD,) if short else LOADS:
                for gossip_s in GOSSIPS_S if policy in BY_GOSSIP else (NO_GOSSIP_S,):
                    yield replace(base, policy=policy, machines=machines, load=load, gossip_s=gossip_s)


def play(cell: Cell) -> dict[str, Any]:
    """One cell, in a process of its own."""
    return played(cell, POLICIES[cell.policy](cell.seed))


def play_litellm(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """LiteLLM's cells, in its own environment."""
    told = json.dumps([asdict(cell) for cell in cells])
    command = [str(rival_python("routing")), str(HERE / "fleets" / "litellm_router.py")]
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"LiteLLM's routers failed: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def results_of(base: Cell, *, short: bool, jobs: int) -> Results:
    """All cells, by policy, machines, load and gossip."""
    theirs = list(cells_of(base, LITELLM, short=short))
    rival_python("routing")  # made before anything runs at the same time
    with ProcessPoolExecutor(jobs) as pool:
        litellm = [pool.submit(play_litellm, [cell]) for cell in theirs]
        mine = [pool.submit(play, cell) for cell in cells_of(base, POLICIES, short=short)]
        found = [one for outcome in litellm for one in outcome.result()]
        for outcome in mine:
            found.append(outcome.result())
            print(_told(found[-1]), file=sys.stderr)
    return {(one["policy"], one["machines"], one["load"], one["gossip_s"]): one for one in found}


def _told(one: dict[str, Any]) -> str:
    where = f"{one['policy']}, {one['machines']} machines, load {one['load']}, gossip {one['gossip_s']:g} s"
    return f"{where}: mean {one['mean']:.2f} s, p99 {one['p99']:.2f} s, lost {one['lost']}"


def rows_of(results: Results) -> list[Row]:
    """Each cell of ours against the bound, LiteLLM and the usual policies."""
    rows: list[Row] = []
    for (policy, machines, load, gossip_s), ours_ in results.items():
        if policy != OURS:
            continue
        name = f"{machines} machines, load {load:g}, gossip {gossip_s:g} s"

        def of(other: str, key: str, m: int = machines, at: float = load, g: float = gossip_s) -> float:
            found = results[other, m, at, g if other in BY_GOSSIP else NO_GOSSIP_S]
            return 1000.0 * float(found[key])

        mean, p99 = 1000 * ours_["mean"], 1000 * ours_["p99"]
        bound = "<= 1.3" if load == PROMISED_LOAD else ""
        rows.append(Row(f"mean, {name}", mean, "ms", of(BOUND, "mean"), BOUND, bound))
        best = min(LITELLM, key=lambda other: of(other, "p99"))
        rows.append(Row(f"p99, {name}", p99, "ms", of(best, "p99"), best, "<= 0.3333"))
        rows += [
            Row(f"mean, {name}", mean, "ms", of(other, "mean"), other)
            for other in POLICIES
            if other not in (OURS, BOUND)
        ]
        gossiped = "least loaded by gossip"
        rows.append(Row(f"p99, {name}", p99, "ms", of(gossiped, "p99"), gossiped))
        rows.append(Row(f"last token, {name}", 1000 * ours_["total"], "ms", of(gossiped, "total"), gossiped))
        rows.append(Row(f"lost, {name}", ours_["lost"], "requests", 1, "none", "<= 0"))
    return rows


def special_rows(base: Cell) -> list[Row]:
    """What is promised of those who fail, lie, or have nothing to do."""
    cell = replace(base, policy=OURS, machines=10, load=0.5, gossip_s=5.0)
    wedge = plays.wedged(cell)
    share = plays.liars_share(replace(cell, load=PROMISED_LOAD))
    fair = 1 / plays.LIAR_MACHINES
    idle = plays.turned_away_when_idle(replace(cell, requests=min(cell.requests or 300, 300)))
    return [
        Row("timeouts at a wedged peer before its trial", wedge.timeouts, "timeouts", 1, "promised", "<= 1"),
        Row("a recovered peer is used again after", wedge.back_s * 1000, "ms", 60_000, "promised", "<= 1"),
        Row("share of one that claims 10x", share * 100, "%", fair * 100, "fair share", "<= 2"),
        Row("refused on an idle fleet", idle, "requests", 1, "none", "<= 0"),
    ]


def made_trace(requests: int) -> Path:
    """A trace drawn by lot, for where the real one is not: lengths as skewed as the real ones are."""
    rng = random.Random(1)
    lines, seconds = ["TIMESTAMP,ContextTokens,GeneratedTokens"], 0.0
    for _ in range(requests):
        seconds += rng.expovariate(5.0)
        minute, second = divmod(seconds, 60)
        hour, minute = divmod(int(minute), 60)
        prompt, output = int(rng.lognormvariate(6.6, 0.9)) + 1, int(rng.lognormvariate(5.0, 0.8)) + 1
        lines.append(
            f"2026-01-01 {hour:02}:{minute:02}:{second:010.7f},{min(prompt, 14_000)},{min(output, 1000)}"
        )
    path = Path(tempfile.gettempdir()) / "meshnode-routing-trace.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def main() -> int:
    """Parse, play, report."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--trace", type=Path, help="requests as CSV: TIMESTAMP,ContextTokens,GeneratedTokens")
    parser.add_argument("--rtt", type=Path, help="measured round trips in seconds, a square table")
    parser.add_argument("--requests", type=int, default=0, help="only the first so many of the trace")
    parser.add_argument("--short", action="store_true", help="one fleet, one load, few requests: for CI")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells played at once")
    given = parser.parse_args()
    requests = given.requests or (SHORT_REQUESTS if given.short else REQUESTS)
    trace = given.trace or _there("azure_llm_conv_2023.csv") or made_trace(requests)
    rtt = given.rtt or _there("seattle_rtt.txt")
    base = Cell(OURS, 10, PROMISED_LOAD, 1.0, str(trace), str(rtt or ""), requests)
    rows = rows_of(results_of(base, short=given.short, jobs=given.jobs)) + special_rows(base)
    return report("routing", rows, as_json=given.json)


def _there(name: str) -> Path | None:
    return DATA / name if (DATA / name).exists() else None


if __name__ == "__main__":
    sys.exit(main())
