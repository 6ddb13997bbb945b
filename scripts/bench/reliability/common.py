"""What every row needs: how a test is described, and a mesh to try it on."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from meshnode.mesh.book import RecordBook
from meshnode.node import Node
from meshnode.testing.simulation import Simulation

Values = Sequence[float]
Play = Callable[[Simulation], Awaitable[Values | tuple[Values, ...]]]
GIVEN_UP_S = 120.0


@dataclass(frozen=True)
class Test:
    """One row: its seeds, what it plays, and the bound on a percentile of all that the plays return, in `unit`.

    Where a play returns values for several rows, it is played once for all; `part` says which are this row's. A
    `long` one takes more than some seconds a seed.
    """

    name: str
    seeds: int
    play: Play
    bound: float
    percentile: int = 99
    anchor: str = "promised"
    matrix: bool = True
    unit: str = "s"
    part: int | None = None
    long: bool = False


def names(count: int) -> list[str]:
    """n0, n1, …"""
    return [f"n{number}" for number in range(count)]


async def start(simulation: Simulation, count: int) -> list[Node]:
    """So many nodes, each on its own; every second has a model."""
    engines = ("scripted", "none")
    return [
        await simulation.start(name, engine=engines[number % 2]) for number, name in enumerate(names(count))
    ]


async def join(nodes: Sequence[Node]) -> None:
    """All join the mesh of the first, at once."""
    tickets = [await nodes[0].invite() for _ in nodes[1:]]
    async with trio.open_nursery() as nursery:
        for node, ticket in zip(nodes[1:], tickets, strict=True):
            nursery.start_soon(node.join, ticket)


async def gather(simulation: Simulation, count: int) -> list[Node]:
    """So many nodes of one mesh."""
    nodes = await start(simulation, count)
    await join(nodes)
    return nodes


async def until_each(nodes: Sequence[Node], holds: Callable[[Node], bool], since: float) -> list[float]:
    """Seconds since then until it holds at each node; GIVEN_UP_S for those where it never does."""
    took = dict.fromkeys((node.config.name for node in nodes), GIVEN_UP_S)
    left = list(nodes)
    with trio.move_on_after(GIVEN_UP_S):
        while left:
            for node in [node for node in left if holds(node)]:
                took[node.config.name] = trio.current_time() - since
                left.remove(node)
            await trio.sleep(0.05)
    return list(took.values())


def book_of(node: Node) -> RecordBook:
    """What a node on a mesh knows."""
    assert node.presence is not None
    return node.presence.book
