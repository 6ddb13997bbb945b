"""Partitions: a mesh that joins, is cut in halves and healed, until all agree again."""

from collections.abc import Mapping, Sequence

import trio

from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from meshwire.ids import NodeId
from reliability.common import Play, Test, Values, book_of, names, start, until_each
from reliability.joining import joined

REST_S = 5.0  # before it is cut
PARTED_S = 60.0


def parting(count: int) -> Play:
    """Until all know each other, and twice until all books agree again: after halves, and after a one-way cut."""

    async def play(simulation: Simulation) -> tuple[Values, ...]:
        nodes = await start(simulation, count)
        return (
            await joined(nodes),
            await parted(simulation, nodes, one_way=False),
            await parted(simulation, nodes, one_way=True),
        )

    return play


async def parted(simulation: Simulation, nodes: Sequence[Node], *, one_way: bool) -> Values:
    """Cut a mesh that is at rest in halves, and heal it."""
    await trio.sleep(REST_S)
    count = len(nodes)
    half, rest = names(count)[: count // 2], names(count)[count // 2 :]
    simulation.partition(half, rest, one_way=one_way)
    await trio.sleep(PARTED_S)
    simulation.heal()
    since = trio.current_time()
    goal = {node.identity.node: book_of(node).last_seq for node in nodes}
    return await until_each(nodes, lambda node: has_all(node, goal), since)


def has_all(node: Node, goal: Mapping[NodeId, int]) -> bool:
    """Whether a node has every other's records up to these versions."""
    book = book_of(node)
    return all(book.version(other) >= seq for other, seq in goal.items() if other != book.own)


_SIXTEEN, _HUNDRED = parting(16), parting(100)
TESTS = (
    Test("16 nodes join and know each other", 100, _SIXTEEN, 5.0, part=0),
    *(
        Test(
            f"{count} nodes agree after {kind}", seeds, play, 10.0, anchor=anchor, part=part, long=count > 16
        )
        for count, seeds, play in ((16, 100, _SIXTEEN), (100, 5, _HUNDRED))
        for part, kind, anchor in (
            (1, "a partition", "serf redials at 30 s"),
            (2, "a one-way partition", "promised"),
        )
    ),
)
