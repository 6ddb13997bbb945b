"""Joining: nodes that join at once, until each knows all. Of 16 it is the beginning of their partition."""

from collections.abc import Sequence

import trio

from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from reliability.common import Play, Test, Values, join, start, until_each


def joining(count: int) -> Play:
    """Until each knows all others and what they offer, since all began to join."""

    async def play(simulation: Simulation) -> Values:
        return await joined(await start(simulation, count))

    return play


async def joined(nodes: Sequence[Node]) -> Values:
    """Let all join the mesh of the first at once, until each knows all."""
    since, offering = trio.current_time(), len(nodes[::2])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(join, nodes)
        return await until_each(nodes, lambda node: knows(node, len(nodes), offering), since)


def knows(node: Node, count: int, offering: int) -> bool:
    """Whether a node knows all members and all models on offer."""
    if node.presence is None or len(node.presence.view()) < count - 1:
        return False
    return len({name for model in node.models() for name in model.nodes}) == offering


TESTS = (Test("100 nodes join and know each other", 10, joining(100), 10.0, long=True),)
