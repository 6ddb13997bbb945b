"""Whole nodes with prices: who asks more than its ad says is not used, and the end of an answer says what it cost."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from meshnode.errors import BudgetExceeded, MeshError, NoCandidate
from meshnode.node import Node, node
from meshnode.node.asking import naming
from meshnode.terms import Candidate, End, Job
from meshnode.testing.simulation import Simulation

TOKENS = 8


async def mesh_with(simulation: Simulation, **prices: float) -> Node:
    """One that asks, and others that ask these prices."""
    a = await simulation.start("a", engine="none")
    for name, price_usd in prices.items():
        other = await simulation.start(name, engine="scripted", price_usd=price_usd)
        await other.join(await a.invite())
    await simulation.until(lambda: sum(len(model.nodes) for model in a.models()) == len(prices))
    return a


async def answer(a: Node, **wishes: Any) -> tuple[str, int]:
    """Who served, and what it cost in nano-dollars."""
    async with a.ask("Tell me a story.", max_tokens=TOKENS, **wishes) as running:
        *_, end = [one async for one in running.pieces]
    assert isinstance(end, End)
    return running.answer.served_by.split("#")[0], end.usage.cost_nusd


def raise_price(simulation: Simulation, name: str, price_usd: float) -> None:
    """From now on it asks more, and its ad does not say so."""
    simulation.host(name).node._inbound._price_usd = price_usd


def test_the_ceiling_rules_out_who_could_cost_more(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_with(simulation, b=100.0)
        assert await answer(a) == ("b", TOKENS * 100_000)
        assert await answer(a, max_price_usd=0.001) == ("b", TOKENS * 100_000)
        with pytest.raises(NoCandidate, match="could cost more"):
            await answer(a, max_price_usd=0.0005)

    mesh(play)


def test_a_sole_peer_that_asks_more_than_its_ad_is_not_used(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_with(simulation, b=1.0)
        raise_price(simulation, "b", 2.0)
        with pytest.raises(BudgetExceeded, match="asks 2 USD"):
            await answer(a)
        assert simulation.host("b").node.engines.all[0].finished_jobs == []

    mesh(play)


def test_of_two_the_one_that_keeps_its_word_serves(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_with(simulation, b=1.0, c=1.0)
        raise_price(simulation, "b", 3.0)
        for _ in range(6):
            assert await answer(a) == ("c", TOKENS * 1000)
        assert simulation.host("b").node.engines.all[0].cancelled_jobs == []
        raise_price(simulation, "c", 3.0)
        with pytest.raises(MeshError, match="more than it advertises"):
            await answer(a)

    mesh(play)


def unpriced(job: Job, candidate: Candidate) -> Job:
    """A job as a node of an older version sends it."""
    return msgspec.structs.replace(naming(job, candidate), price_usd=None)


def test_a_worker_holds_the_ceiling_itself(mesh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "naming", unpriced)

    async def play(simulation: Simulation) -> None:
        a = await mesh_with(simulation, b=0.0)
        raise_price(simulation, "b", 100.0)
        with pytest.raises(BudgetExceeded, match="could cost"):
            await answer(a, max_price_usd=0.0001)
        assert simulation.host("b").node.engines.all[0].finished_jobs == []
        assert await answer(a, max_price_usd=0.001) == ("b", 0)  # by the ad

    mesh(play)
