"""What happens to those who fail, lie or come back: a fleet routed as meshnode does, with something amiss in it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fleets.cells import Cell, fleet_of, read_trace
from fleets.fleet import FASTEST_PROMPT_TPS, FASTEST_TPS, Fleet, Machine, paced
from fleets.ours import Meshnode

WEDGED_AT_S, HEALED_AT_S = 100.0, 220.0
LIAR_CLAIMS = 10.0
LIAR_MACHINES = 10
LIAR_ENTRIES = 4
LIAR_LEARNT_S = 60.0
IDLE_LOAD = 0.02
EVEN_RTT_S = 0.05


@dataclass(frozen=True)
class Wedge:
    """What a wedged machine cost, and when it was back.

    `timeouts` is the most that one entry waited for in vain before a half-open trial was due; `back_s` is how long
    after it worked again the first request went there.
    """

    timeouts: int
    back_s: float


def wedged(cell: Cell) -> Wedge:
    """The fastest machine hangs for two minutes, and works again after that."""
    fleet = fleet_of(cell, Meshnode(cell.seed))
    worker = max(range(len(fleet.machines)), key=lambda number: fleet.machines[number].tps)
    sent: list[tuple[float, int]] = []
    send = fleet.send

    def noting(request: object, to: int) -> None:
        if to == worker:
            sent.append((fleet.now, request.entry))  # type: ignore[attr-defined]
        send(request, to)  # type: ignore[arg-type]

    fleet.send = noting  # type: ignore[method-assign,assignment]
    fleet.after(WEDGED_AT_S, _set, fleet, worker, True)
    fleet.after(HEALED_AT_S, _set, fleet, worker, False)
    fleet.run()
    back = [at for at, _ in sent if at >= HEALED_AT_S]
    return Wedge(_timeouts(fleet, worker, sent), min(back) - HEALED_AT_S if back else float("inf"))


def _set(fleet: Fleet, worker: int, wedged: bool) -> None:
    fleet.look(worker)
    fleet.machines[worker].wedged = wedged
    fleet.machines[worker].at = fleet.now
    fleet.look(worker)


def _timeouts(fleet: Fleet, worker: int, sent: Sequence[tuple[float, int]]) -> int:
    """The most requests of one entry that waited in vain, of which none was a trial and none was under way before."""
    policy = fleet.policy
    assert isinstance(policy, Meshnode)
    most = 0
    for entry, silences in policy.silences.items():
        first = min((at for at, node in silences if node == worker), default=None)
        if first is not None:
            before_trial = [at for at, who in sent if who == entry and first < at < first + 4.0]
            most = max(most, 1 + len(before_trial))
    return most


def liars_share(cell: Cell) -> float:
    """The share of requests that a machine of ten equal ones gets, once it could be known that it is no faster."""
    machines = [Machine(FASTEST_PROMPT_TPS, FASTEST_TPS) for _ in range(LIAR_MACHINES)]
    liar = random.Random(cell.seed).randrange(LIAR_MACHINES)
    machines[liar].claims = LIAR_CLAIMS
    trace = read_trace(cell.trace, cell.requests)
    requests = paced(trace, machines, LIAR_ENTRIES, cell.load, cell.seed)
    fleet = Fleet(
        machines, requests, lambda _entry, _worker: EVEN_RTT_S, cell.gossip_s, Meshnode(cell.seed), cell.seed
    )
    fleet.run()
    counted = [one for one in requests if one.at >= LIAR_LEARNT_S]
    return sum(one.worker == liar for one in counted) / len(counted)


def turned_away_when_idle(cell: Cell) -> int:
    """Requests that an idle fleet refuses."""
    fleet = fleet_of(replace(cell, load=IDLE_LOAD), Meshnode(cell.seed))
    fleet.run()
    return sum(one.lost for one in fleet.requests)
