"""Scale: so many nodes that nobody is linked with everybody. They join, agree, talk and look things up."""

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from meshnode.mesh import keyspace
from meshnode.mesh.lookup import Lookup
from meshnode.net.dht import Dht
from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from meshwire.ids import NodeId
from meshwire.records import RecordType
from reliability.common import GIVEN_UP_S, book_of, names

AT_THE_FIRST = 48  # nodes that join at the first one; the rest at these, which pass the request on
OFFERING = 10  # every so many nodes there is one with a model
SETTLE_S = 30.0
TALK_S = 20.0
LOOKUPS = 100
LOOK_EVERY_S = 0.25


@dataclass
class Measured:
    """What one run came to. Times of the mesh are virtual; the simulation's own cost is of this machine."""

    nodes: int
    joined_s: list[float] = field(default_factory=list)
    converged_s: float = GIVEN_UP_S
    kilobytes_per_s: list[float] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    found: int = 0
    looked_up: int = 0
    rounds: list[int] = field(default_factory=list)
    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0


class Watch:
    """What each part of a run costs this machine."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()

    def lap(self, part: str) -> None:
        """The part that was being measured is over."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        self._measured.wall_s[part] = wall_s - self._wall_s
        self._measured.cpu_s[part] = cpu_s - self._cpu_s
        took_s, at_s = self._measured.wall_s[part], trio.current_time()
        print(
            f"{self._measured.nodes} nodes: {part} took {took_s:.0f} s, virtual time {at_s:.1f} s",
            file=sys.stderr,
        )
        self._wall_s, self._cpu_s = wall_s, cpu_s


async def play(simulation: Simulation, count: int) -> Measured:
    """A whole run: start, join, agree, talk, look up."""
    measured = Measured(count)
    watch = Watch(measured)
    nodes = [
        await simulation.start(name, engine="none" if number % OFFERING else "scripted")
        for number, name in enumerate(names(count))
    ]
    watch.lap("start")
    since = trio.current_time()
    await join(nodes, measured)
    measured.converged_s = await until_all_known(nodes, since)
    watch.lap("join")
    await trio.sleep(SETTLE_S)
    watch.lap("settle")
    before = simulation.sent_bytes.copy()
    await trio.sleep(TALK_S)
    sent = [simulation.sent_bytes[name] - before[name] for name in names(count)]
    measured.kilobytes_per_s = [each / TALK_S / 1000 for each in sent]
    measured.links = [len(node.snapshot().links) for node in nodes[:: max(1, count // 20)]]
    watch.lap("talk")
    await look_up(nodes, measured)
    watch.lap("lookups")
    measured.peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return measured


async def join(nodes: Sequence[Node], measured: Measured) -> None:
    """All join the first one's mesh: some at the first one, then the others at those."""
    first, *others = nodes
    early, late = others[:AT_THE_FIRST], others[AT_THE_FIRST:]
    vias = [early[number % len(early)].config.name for number in range(len(late))]
    for group, via in ((early, [""] * len(early)), (late, [f"mem://{name}" for name in vias])):
        tickets = [await first.invite() for _ in group]
        async with trio.open_nursery() as nursery:
            for node, ticket, address in zip(group, tickets, via, strict=True):
                nursery.start_soon(_join, node, ticket, address, measured)


async def _join(node: Node, ticket: str, via: str, measured: Measured) -> None:
    since = trio.current_time()
    await node.join(ticket, via=via)
    measured.joined_s.append(trio.current_time() - since)


async def until_all_known(nodes: Sequence[Node], since: float) -> float:
    """Seconds since then until each node has the ads of all; GIVEN_UP_S if some never do."""
    left = list(nodes)
    with trio.move_on_after(GIVEN_UP_S):
        while left:
            left = [node for node in left if len(book_of(node).all(RecordType.NODE)) < len(nodes)]
            await trio.sleep(LOOK_EVERY_S)
        return trio.current_time() - since
    return GIVEN_UP_S


async def look_up(nodes: Sequence[Node], measured: Measured) -> None:
    """Look for providers from many nodes at once: what the DHT itself says, not the book."""
    assert nodes[0].presence is not None
    family = next(iter(nodes[0].presence.publisher.current_cards().values())).family
    key = keyspace.capability_key(nodes[0].presence.mesh.id, family, None)
    offering = {node.identity.node for node in nodes[::OFFERING]}
    asking = [node for number, node in enumerate(nodes) if number % OFFERING]
    async with trio.open_nursery() as nursery:
        for node in asking[:: max(1, len(asking) // LOOKUPS)][:LOOKUPS]:
            assert node.presence is not None
            nursery.start_soon(_look_up, node.presence.dht, key, offering, measured)


async def _look_up(dht: Dht, key: bytes, offering: set[NodeId], measured: Measured) -> None:
    result = await dht.lookup(key, providers=True)
    measured.looked_up += 1
    measured.found += bool({owner for owner, _ in result.providers} & offering)
    measured.rounds.append(await rounds_to(dht, key, offering))


async def rounds_to(dht: Dht, key: bytes, offering: set[NodeId]) -> int:
    """After how many rounds of questions, each asked at once, the first true provider is named."""
    machine = Lookup(key, dht.table.nearest(key), trio.current_time())
    rounds = 0
    while not machine.done and not {owner for owner, _ in machine.result.providers} & offering:
        rounds += 1
        async with trio.open_nursery() as nursery:
            for node in machine.next(trio.current_time()):
                nursery.start_soon(_ask, dht, machine, node)
    return rounds


async def _ask(dht: Dht, machine: Lookup, node: NodeId) -> None:
    await dht._ask(machine, node, True, trio.lowlevel.ParkingLot())
