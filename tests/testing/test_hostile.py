"""Hostile peers of the simulator: each does its misdeed, and the mesh of those of good will holds."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog
import trio

from meshnode.mesh.providers import model_keys
from meshnode.node import Node
from meshnode.testing import misdeeds
from meshnode.testing.hostile import Gang, Hostile
from meshnode.testing.simulation import Simulation, simulate
from meshwire.records import RecordType

HOSTILE: list[Callable[[], Hostile]] = [
    Hostile,
    misdeeds.HidesProviders,
    misdeeds.NamesFarNodes,
    misdeeds.InventsNodes,
    misdeeds.StoresForOthers,
    misdeeds.Replays,
    misdeeds.PostDates,
    misdeeds.Equivocates,
    misdeeds.DropsRelayed,
    misdeeds.BendsRelayed,
    misdeeds.TruncatesRelayed,
    misdeeds.NeverAnswers,
    misdeeds.FloodsStores,
    misdeeds.FloodsStreams,
    misdeeds.FloodsCircuits,
]


async def mesh_with(simulation: Simulation, hostile: Hostile, *, is_open: bool = False) -> list[Node]:
    """Three of good will, of whom b has the model, and a hostile one."""
    a = await simulation.start("a", engine="none", open_mesh=is_open)
    others = [
        await simulation.start("b"),
        await simulation.start("c", engine="none"),
        await simulation.start("h", engine="none", hostile=hostile),
    ]
    for node in others:
        await node.join("mem://a" if is_open else await a.invite())
    return [a, *others]


async def told(node: Node) -> list[int]:
    async with node.ask("Hello?", max_tokens=5, deadline_s=20, privacy="public") as running:
        return [index async for piece in running.pieces for index in getattr(piece, "ids", ())]


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("kind", HOSTILE, ids=lambda kind: kind.__name__)
def test_one_hostile_node_keeps_nobody_from_an_answer(kind: Callable[[], Hostile], is_open: bool) -> None:
    async def play(simulation: Simulation) -> None:
        nodes = await mesh_with(simulation, kind(), is_open=is_open)
        await trio.sleep(20)
        for node in (nodes[0], nodes[2]):
            assert len(await told(node)) == 5

    simulate(1, play)
