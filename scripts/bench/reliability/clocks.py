"""Clocks that are wrong, and disks that are old: until the others hold what such a node says now."""

from collections.abc import Sequence

import trio

from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from meshwire.records import RecordType
from reliability.common import GIVEN_UP_S, Play, Test, book_of, gather, names, until_each

SKEW_S = 300.0


def skewed(count: int) -> Play:
    """Until all see all and what they offer, since all began to join; clocks 5 min wrong, both ways."""

    async def play(simulation: Simulation) -> Sequence[float]:
        for number, name in enumerate(names(count)):
            simulation.set_clock(name, (-SKEW_S, 0.0, SKEW_S)[number % 3])
        nodes = await gather(simulation, count)
        since = trio.current_time()
        return await until_each(nodes, lambda node: all(_holds_newest(node, other) for other in nodes), since)

    return play


def stale_disk(count: int) -> Play:
    """Until all hold the new word of a node that came back with an old disk; GIVEN_UP_S for a rollback."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, count)
        await trio.sleep(10)
        stale = nodes[count // 2]
        name = stale.config.name
        old = simulation.copy_disk(name)
        await trio.sleep(30)
        before = book_of(stale).last_seq
        await simulation.crash(name)
        simulation.set_disk(name, old)
        simulation.set_clock(name, -SKEW_S)  # it cannot even guess by its clock how far it was
        back = await simulation.restart(name)
        since = trio.current_time()
        others = [node for node in nodes if node is not stale]
        took = await until_each(others, lambda node: _holds_newest(node, back, above=before), since)
        rolled_back = book_of(back).last_seq <= before
        return [GIVEN_UP_S if rolled_back else one for one in took]

    return play


def _holds_newest(node: Node, other: Node, above: int = 0) -> bool:
    """Whether a node's book has the ads that another one signs now, newer than `above`."""
    if node is other:
        return True
    kinds = (RecordType.NODE, RecordType.MODEL)
    signed = [record for record in book_of(other).of(other.identity.node) if record.type in kinds]
    held = book_of(node).of(other.identity.node)
    return bool(signed) and all(record in held and record.seq > above for record in signed)


TESTS = (
    Test("16 nodes, clocks 5 min wrong both ways, agree", 10, skewed(16), 10.0),
    Test("16 nodes believe one that is back with an old disk", 10, stale_disk(16), 10.0, anchor="Jepsen"),
)
