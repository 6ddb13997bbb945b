"""Partitions: a mesh cut in halves and healed, until all agree again."""

from collections.abc import Mapping, Sequence

import trio

from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from meshwire.ids import NodeId
from reliability.common import Play, Test, book_of, gather, names, until_each

PARTED_S = 60.0


def parting(count: int, *, one_way: bool) -> Play:
    """Until all books agree again, since a partition into halves was healed."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, count)
        await trio.sleep(10)
        half = names(count)[: count // 2]
        rest = names(count)[count // 2 :]
        simulation.partition(half, rest, one_way=one_way)
        await trio.sleep(PARTED_S)
        simulation.heal()
        since = trio.current_time()
        goal = {node.identity.node: book_of(node).last_seq for node in nodes}
        return await until_each(nodes, lambda node: has_all(node, goal), since)

    return play


def has_all(node: Node, goal: Mapping[NodeId, int]) -> bool:
    """Whether a node has every other's records up to these versions."""
    book = book_of(node)
    return all(book.version(other) >= seq for other, seq in goal.items() if other != book.own)


TESTS = tuple(
    Test(
        f"{count} nodes agree after {kind}",
        seeds,
        parting(count, one_way=one_way),
        10.0,
        anchor=anchor,
        long=count > 16,
    )
    for count, seeds in ((16, 100), (100, 5))
    for kind, one_way, anchor in (
        ("a partition", False, "serf redials at 30 s"),
        ("a one-way partition", True, "promised"),
    )
)
