"""One cell of the table: a fleet, a load, how often gossip tells, a policy; and what is measured of it."""

import csv
import random
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fleets.fleet import Fleet, Policy, machines_of, paced

TIMESTAMP_CHARACTERS = 26  # what Python reads; the trace has a digit more
LONGEST_S = 1.0
ENTRIES = {10: 10, 50: 40}
WARM_UP_SHARE = 0.05


@dataclass(frozen=True)
class Cell:
    """What is played. `trace` and `rtt` are paths, an empty `rtt` is 50 ms; `requests` 0 takes the whole trace."""

    policy: str
    machines: int
    load: float
    gossip_s: float
    trace: str
    rtt: str
    requests: int
    seed: int = 1


@lru_cache(maxsize=1)
def read_trace(path: str, most: int) -> tuple[tuple[float, int, int], ...]:
    """The trace's requests: seconds, prompt tokens, answer tokens."""
    with Path(path).open(encoding="utf-8") as file:
        rows = [
            (
                datetime.fromisoformat(row["TIMESTAMP"][:TIMESTAMP_CHARACTERS]).timestamp(),
                int(row["ContextTokens"]),
                max(1, int(row["GeneratedTokens"])),
            )
            for row in csv.DictReader(file)
        ]
    return tuple(rows[: most or len(rows)])


@lru_cache(maxsize=1)
def read_rtt(path: str) -> tuple[tuple[float, ...], ...]:
    """The measured round trips in seconds; zeros take the row's median, and LONGEST_S is the most."""
    rows = [
        [float(one) for one in line.split()] for line in Path(path).read_text(encoding="utf-8").splitlines()
    ]
    medians = [sorted(one for one in row if one > 0)[len(row) // 2] for row in rows]
    return tuple(
        tuple(min(one or middle, LONGEST_S) for one in row) for row, middle in zip(rows, medians, strict=True)
    )


def fleet_of(cell: Cell, policy: Policy) -> Fleet:
    """The fleet of a cell, ready to run."""
    trace = read_trace(cell.trace, cell.requests)
    machines, entries = machines_of(cell.machines, cell.seed), ENTRIES[cell.machines]
    requests = paced(trace, machines, entries, cell.load, cell.seed)
    return Fleet(machines, requests, _round_trips(cell, entries), cell.gossip_s, policy, cell.seed)


def _round_trips(cell: Cell, entries: int) -> Any:
    if not cell.rtt:
        return lambda _entry, _worker: 0.05
    matrix = read_rtt(cell.rtt)
    places = random.Random(cell.seed).sample(range(len(matrix)), entries + cell.machines)
    return lambda entry, worker: matrix[places[entry]][places[entries + worker]]


def played(cell: Cell, policy: Policy) -> dict[str, Any]:
    """Play a cell; the mean and the 99th percentile of seconds to the first token, and what went wrong."""
    fleet = fleet_of(cell, policy)
    fleet.run()
    counted = fleet.requests[int(len(fleet.requests) * WARM_UP_SHARE) :]
    firsts = sorted(one.first_at - one.at for one in counted if not one.lost)
    return {
        "policy": cell.policy,
        "machines": cell.machines,
        "load": cell.load,
        "gossip_s": cell.gossip_s,
        "mean": sum(firsts) / len(firsts),
        "p99": firsts[-(-99 * len(firsts) // 100) - 1],
        "total": sum(one.done_at - one.at for one in counted if not one.lost) / len(firsts),
        "lost": sum(one.lost for one in fleet.requests),
        "requests": len(fleet.requests),
    }
