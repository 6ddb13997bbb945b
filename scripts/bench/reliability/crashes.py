"""Crashes: until nobody sees a way any more to a node that is gone; and whether those that are there stay."""

from collections.abc import Sequence

import trio

from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from meshwire.ids import NodeId
from reliability.common import Play, Test, Values, gather, names, until_each

NONE = 0.5  # a bound on whole pairs
REST_S = 15.0  # before anything happens to a mesh


def crashing(count: int) -> Play:
    """Until no other node sees a way to one that crashed: its connections close; it falls silent; so at 50% loss."""

    async def play(simulation: Simulation) -> tuple[Values, ...]:
        left = await gather(simulation, count)
        took = []
        for silent, loss in ((False, 0.0), (True, 0.0), (True, 0.5)):
            await trio.sleep(REST_S)
            simulation.shape(names(count), names(count), loss=loss)
            gone = left.pop(count // 2)
            took.append(await until_unseen(simulation, left, gone, silent=silent))
        return tuple(took)

    return play


async def until_unseen(simulation: Simulation, left: Sequence[Node], gone: Node, *, silent: bool) -> Values:
    """Let a node crash, and wait until none of the others sees a way to it."""
    who = gone.identity.node
    await simulation.crash(gone.config.name, silent=silent)
    return await until_each(left, lambda node: not sees_way(node, who), trio.current_time())


def blaming(count: int, *, loss: float = 0.0, slower: float = 1.0) -> Play:
    """At each moment of 30 s of loss, or of one slow node, and after it: pairs where one believes the other dead."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, count)
        await trio.sleep(REST_S)
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


_CRASHES = (
    ("a crash that closes connections", 5.0, "promised"),
    ("a silent crash", 10.0, "chitchat: 10 s"),
    ("a silent crash at 50% loss", 15.0, "promised"),
)
TESTS = (
    *(
        Test(f"{count} nodes see {what}", seeds, play, bound, anchor=anchor, part=part, long=count > 16)
        for count, seeds, play in ((16, 10, crashing(16)), (100, 1, crashing(100)))
        for part, (what, bound, anchor) in enumerate(_CRASHES)
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
