"""Crashes: until nobody sees a way any more to a node that is gone."""

from collections.abc import Sequence

import trio

from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from meshwire.ids import NodeId
from reliability.common import Play, Test, gather, names, until_each


def crashing(count: int, *, silent: bool, loss: float = 0.0) -> Play:
    """Until no other node sees a way to one that crashed."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, count)
        await trio.sleep(15)
        simulation.shape(names(count), names(count), loss=loss)
        gone = nodes[count // 2]
        await simulation.crash(gone.config.name, silent=silent)
        since, who = trio.current_time(), gone.identity.node
        left = [node for node in nodes if node is not gone]
        return await until_each(left, lambda node: not sees_way(node, who), since)

    return play


def sees_way(node: Node, other: NodeId) -> bool:
    """Whether a node believes that it can reach another."""
    peer = node.presence.view().get(other) if node.presence is not None else None
    return peer is not None and peer.route is not None


TESTS = (
    Test("16 nodes see a crash that closes connections", 10, crashing(16, silent=False), 5.0),
    Test("16 nodes see a silent crash", 10, crashing(16, silent=True), 10.0, anchor="chitchat: 10 s"),
    Test("16 nodes see a silent crash at 50% loss", 5, crashing(16, silent=True, loss=0.5), 15.0),
)
