"""Whole nodes: a peer that takes requests and says nothing is overtaken, and the client sees one answer."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine
from meshnode.node import Node
from meshnode.routing.hedging import SHARE
from meshnode.serve.attended import FIRST_BYTE_S
from meshnode.serve.hedge import OUTCOMES
from meshnode.terms import Piece
from meshnode.testing.simulation import Simulation

WARM = 60
TRIED = 12


async def mesh_of_three(simulation: Simulation, **settings: Any) -> Node:
    """One that asks, and two that can answer."""
    a = await simulation.start("a", engine="none", **settings)
    for name in ("b", "c"):
        node = await simulation.start(name, engine="scripted")
        await node.join(await a.invite())
    await simulation.until(lambda: sum(len(model.nodes) for model in a.models()) == 2)
    return a


async def answer(a: Node, privacy: str) -> tuple[str, float, str]:
    """The text, the time to its first token, and who served; each token came once."""
    began = trio.current_time()
    count, text = 0, ""
    async with a.ask("Tell me a story.", max_tokens=8, temperature=0.0, privacy=privacy) as running:
        took_s = trio.current_time() - began
        async for item in running.pieces:
            if isinstance(item, Piece):
                assert item.first_index == count
                count += len(item.ids)
                text += item.text
    return text, took_s, running.answer.served_by.split("#")[0]


def hedges(a: Node) -> dict[str, float]:
    return {one: a.metrics.hedges.labels(one)._value.get() for one in OUTCOMES}


async def stalled(
    simulation: Simulation, privacy: str, **settings: Any
) -> tuple[Node, ScriptedEngine, list[float]]:
    """The waits for first tokens once that of two peers which served until then takes requests and says nothing."""
    a = await mesh_of_three(simulation, **settings)
    warm = [await answer(a, privacy) for _ in range(WARM)]
    texts, favourite = {text for text, _, _ in warm}, warm[-1][2]
    engine = simulation.hosts[favourite].node.engines.all[0]
    assert isinstance(engine, ScriptedEngine)
    engine._slots = trio.Semaphore(0)
    waits = []
    for _ in range(TRIED):
        text, took_s, by = await answer(a, privacy)
        assert by != favourite
        texts.add(text)
        waits.append(took_s)
    assert len(texts) == 1
    return a, engine, waits


def test_a_peer_that_says_nothing_is_overtaken_within_the_budget(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a, engine, waits = await stalled(simulation, "public", hedge=True)
        counted = hedges(a)
        assert counted["won"] >= 1
        assert sum(counted.values()) <= SHARE * (WARM + TRIED)
        assert min(waits) < 1
        assert len([wait for wait in waits if wait > FIRST_BYTE_S]) <= 1  # then the breaker
        await trio.sleep(0.2)
        assert engine.load.in_flight == 0
        assert engine.cancelled_jobs

    mesh(play)


@pytest.mark.parametrize(("privacy", "on"), [("private", True), ("public", False)])
def test_private_requests_and_nodes_where_it_is_off_wait(
    mesh: Callable[..., Any], privacy: str, *, on: bool
) -> None:
    async def play(simulation: Simulation) -> None:
        a, _, waits = await stalled(simulation, privacy, hedge=on)
        assert sum(hedges(a).values()) == 0
        assert max(waits) > FIRST_BYTE_S

    mesh(play)
