"""Streams that break: an answer whose worker, relay or link goes in the middle, and one that nobody wants any more.

Two meshes of five: `full`, where all are linked with all, and `relayed`, where who asks reaches the two that can
answer through either of two relays only.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from meshnode.engine.scripted import ScriptedEngine
from meshnode.errors import MeshError
from meshnode.node import Node
from meshnode.terms import Answer, Emitted, End, Piece
from meshnode.testing.simulation import Simulation
from reliability.common import GIVEN_UP_S, Play, Test, gather

ASKER = "asker"
RELAYS = ("relay0", "relay1")
WORKERS = ("worker0", "worker1")
TOKENS = 120
Fault = Callable[[Simulation, tuple[str, ...]], object]  # given the names on the way, the asker's first


async def full(simulation: Simulation) -> Node:
    """Five nodes that are all linked, three of which can answer; one that cannot."""
    nodes = await gather(simulation, 5)
    for node in nodes:
        write_long(node)
    return nodes[1]


def write_long(node: Node) -> None:
    """Let its answers take more than a second, for something to happen meanwhile."""
    for engine in node.bench.engines:
        if isinstance(engine, ScriptedEngine):
            engine.answer_tokens = TOKENS


async def relayed(simulation: Simulation) -> Node:
    """Who asks is linked to the relays only, and so is who can answer."""
    first, second = [await simulation.start(name, engine="none", discover=False) for name in RELAYS]
    await second.join(await first.invite(), via=f"mem://{RELAYS[0]}")
    tickets = {name: await first.invite() for name in (ASKER, *WORKERS)}
    bootstrap = [f"mem://{name}" for name in RELAYS]
    async with trio.open_nursery() as nursery:
        for name in (ASKER, *WORKERS):
            engine = "none" if name == ASKER else "scripted"
            node = await simulation.start(name, engine=engine, discover=False, bootstrap=bootstrap)
            nursery.start_soon(node.join, tickets[name])
            write_long(node)
    asker = simulation.host(ASKER).node
    await simulation.until(lambda: len(asker.snapshot().links) == len(RELAYS), within_s=60)
    await simulation.until(lambda: sum(len(model.nodes) for model in asker.models()) == len(WORKERS))
    return asker


def breaking(mesh: Callable[[Simulation], object], *faults: Fault) -> Play:
    """The longest pause of an answer in whose middle a fault happens, drawn by seed; GIVEN_UP_S unless it is
    whole.
    """

    async def play(simulation: Simulation) -> Sequence[float]:
        rng = random.Random(f"{simulation.seed} fault")
        asker: Node = await mesh(simulation)  # type: ignore[misc]
        await trio.sleep(2 + 3 * rng.random())
        fault, at = rng.choice(faults), rng.randint(1, TOKENS // 2)
        heard = Heard()
        with trio.move_on_after(GIVEN_UP_S):
            try:
                async with asker.ask("Tell me a long story.", max_tokens=TOKENS, deadline_s=60) as running:
                    way = names_of(running.answer)
                    async for item in running.pieces:
                        heard.take(item)
                        if heard.index > at and not heard.broken:
                            heard.broken = True
                            done = fault(simulation, way)
                            if done is not None:
                                await done  # type: ignore[misc]
            except MeshError as error:
                simulation.note(error)
        return [heard.longest_s if heard.whole else GIVEN_UP_S]

    return play


def names_of(answer: Answer) -> tuple[str, ...]:
    """The nodes that an answer passes, its asker first."""
    return tuple(label.split("#")[0] for label in answer.path)


# --- Faults ---


def worker_crash(simulation: Simulation, way: tuple[str, ...]) -> object:
    return simulation.crash(way[-1])


def worker_power(simulation: Simulation, way: tuple[str, ...]) -> object:
    return simulation.crash(way[-1], silent=True)


def relay_crash(simulation: Simulation, way: tuple[str, ...]) -> object:
    return simulation.crash(way[1])


def relay_power(simulation: Simulation, way: tuple[str, ...]) -> object:
    return simulation.crash(way[1], silent=True)


def link_partition(simulation: Simulation, way: tuple[str, ...]) -> object:
    return simulation.partition(*a_link(simulation, way))


def link_one_way(simulation: Simulation, way: tuple[str, ...]) -> object:
    return simulation.partition(*reversed(a_link(simulation, way)), one_way=True)


def link_reset(simulation: Simulation, way: tuple[str, ...]) -> object:
    return simulation.reset(*a_link(simulation, way))


def link_hold(simulation: Simulation, way: tuple[str, ...]) -> object:
    return simulation.hold(*a_link(simulation, way))


def a_link(simulation: Simulation, way: tuple[str, ...]) -> tuple[str, str]:
    """One link of the way, drawn by seed."""
    number = random.Random(f"{simulation.seed} link").randrange(len(way) - 1)
    return way[number], way[number + 1]


# --- Cancelling ---


async def chain(simulation: Simulation) -> tuple[Node, Node]:
    """Four nodes in a row, the last of which can answer; the first and the last."""
    names = [f"n{number}" for number in range(4)]
    nodes = []
    for name, before in zip(names, [None, *names], strict=False):
        engine = "scripted" if name == names[-1] else "none"
        nodes.append(await simulation.start(name, engine=engine, discover=False))
        if before is not None:
            await nodes[-1].join(await nodes[0].invite(), via=f"mem://{before}")
    await simulation.until(nodes[0].models)
    return nodes[0], nodes[-1]


async def cancelling(simulation: Simulation) -> Sequence[float]:
    """How much longer than one round trip it takes until the worker is idle, three links away."""
    asker, worker = await chain(simulation)
    await trio.sleep(12)  # for the round trips to be measured, and told
    write_long(worker)
    (engine,) = worker.bench.engines
    async with asker.ask("Tell me a long story.", max_tokens=TOKENS, deadline_s=60) as running:
        assert len(running.answer.path) == 4
        await anext(running.pieces)
        assert engine.load.in_flight == 1
    left = trio.current_time()
    while engine.load.in_flight:
        await trio.sleep(0.005)
        if trio.current_time() > left + GIVEN_UP_S:
            return [GIVEN_UP_S]
    return [max(0.0, trio.current_time() - left - round_trip_s(simulation))]


def round_trip_s(simulation: Simulation) -> float:
    """From the first of the chain to the last and back."""
    conditions = simulation.network.conditions
    pairs = [(f"n{number}", f"n{number + 1}") for number in range(3)]
    return sum(conditions.way(a, b).delay_s + conditions.way(b, a).delay_s for a, b in pairs)


@dataclass
class Heard:
    """What has come of an answer: the next index, the longest pause since it broke, and whether it is whole."""

    index: int = 0
    ends: int = 0
    written: int = 0
    in_order: bool = True
    broken: bool = False
    longest_s: float = 0.0
    last_at: float = 0.0

    def take(self, item: Emitted) -> None:
        """One more item."""
        now = trio.current_time()
        if self.broken:
            self.longest_s = max(self.longest_s, now - self.last_at)
        self.last_at = now
        if isinstance(item, End):
            self.ends += 1
            self.written = item.usage.completion_tokens
        if isinstance(item, Piece):
            self.in_order = self.in_order and item.first_index == self.index
            self.index += len(item.ids)

    @property
    def whole(self) -> bool:
        """Whether it broke, and still has every index once, and one end."""
        return self.broken and self.in_order and self.ends == 1 and self.index == self.written


LINKS = (link_partition, link_one_way, link_reset, link_hold)
WORKER = (worker_crash, worker_power)
RELAY = (relay_crash, relay_power)


async def anything(simulation: Simulation) -> Sequence[float]:
    """One of all the meshes and faults, by seed."""
    mesh, faults = random.Random(f"{simulation.seed} kind").choice(
        ((full, WORKER), (full, LINKS), (relayed, WORKER), (relayed, RELAY), (relayed, LINKS))
    )
    return await breaking(mesh, *faults)(simulation)


TESTS = (
    Test("an answer goes on, whatever broke", 1000, anything, 5.0),
    Test("an answer goes on after its worker's crash", 20, breaking(full, worker_crash), 5.0),
    Test("an answer goes on after its worker lost its power", 20, breaking(full, worker_power), 5.0),
    Test("an answer goes on after its link broke", 20, breaking(full, *LINKS), 5.0),
    Test("an answer goes on after its relay's crash", 20, breaking(relayed, relay_crash), 5.0),
    Test("an answer goes on after its relay lost its power", 20, breaking(relayed, relay_power), 5.0),
    Test("a relayed answer goes on after its worker went", 20, breaking(relayed, *WORKER), 5.0),
    Test("a relayed answer goes on after a link broke", 20, breaking(relayed, *LINKS), 5.0),
    Test("a cancel over three links, beyond the round trip", 20, cancelling, 0.25),
)
