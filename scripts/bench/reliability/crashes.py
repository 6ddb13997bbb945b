"""Crashes: until nobody sees a way any more to a node that is gone; and whether those that are there stay."""

from collections.abc import Sequence

import trio

from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from meshwire.ids import NodeId
from reliability.common import Play, Test, gather, names, until_each

NONE = 0.5  # a bound on whole pairs


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


def blaming(count: int, *, loss: float = 0.0, slower: float = 1.0) -> Play:
    """At each moment of 30 s of loss, or of one slow node, and after it: pairs where one believes the other dead."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, count)
        await trio.sleep(15)
        simulation.shape(names(count), names(count), loss=loss)
        slow_down(simulation, names(count)[count // 2], names(count), slower)
        during = await dead_pairs(nodes, 30)
        simulation.shape(names(count), names(count), loss=0.0)
        return [*during, *await dead_pairs(nodes, 30)]

    return play


def slow_down(simulation: Simulation, slow: str, all_names: Sequence[str], times: float) -> None:
    """All that one node says and hears takes so many times as long, and as much again by chance."""
    if times == 1.0:
        return
    for other in all_names:
        if other != slow:
            delay_s = times * simulation.network.conditions.way(slow, other).delay_s
            simulation.shape(slow, other, delay_s=delay_s, jitter_s=delay_s)


async def dead_pairs(nodes: Sequence[Node], for_s: float) -> list[float]:
    """How many pairs there are at each moment of that time."""
    found = []
    until = trio.current_time() + for_s
    while trio.current_time() < until:
        found.append(float(sum(len(node.presence.watch.dead()) for node in nodes if node.presence)))
        await trio.sleep(0.1)
    return found


def sees_way(node: Node, other: NodeId) -> bool:
    """Whether a node believes that it can reach another."""
    peer = node.presence.view().get(other) if node.presence is not None else None
    return peer is not None and peer.route is not None


TESTS = (
    Test("16 nodes see a crash that closes connections", 10, crashing(16, silent=False), 5.0),
    Test("16 nodes see a silent crash", 10, crashing(16, silent=True), 10.0, anchor="chitchat: 10 s"),
    Test("16 nodes see a silent crash at 50% loss", 5, crashing(16, silent=True, loss=0.5), 15.0),
    Test("100 nodes see a crash that closes connections", 1, crashing(100, silent=False), 5.0, long=True),
    Test(
        "100 nodes see a silent crash",
        1,
        crashing(100, silent=True),
        10.0,
        anchor="chitchat: 10 s",
        long=True,
    ),
    Test(
        "100 nodes see a silent crash at 50% loss", 1, crashing(100, silent=True, loss=0.5), 15.0, long=True
    ),
    Test(
        "pairs of 16 nodes that believe a healthy one dead, at 50% loss",
        5,
        blaming(16, loss=0.5),
        NONE,
        100,
        unit="pairs",
    ),
    Test(
        "pairs of 16 nodes that believe a healthy one dead, one being slow",
        5,
        blaming(16, slower=10),
        NONE,
        100,
        unit="pairs",
    ),
)
