"""Whole nodes that choose between peers: they ask, the answer decides, and who hangs costs once."""

from collections.abc import Callable
from typing import Any

import msgspec
import trio

from meshnode.engine.scripted import ScriptedEngine
from meshnode.node import Node
from meshnode.node.asking import job_from
from meshnode.serve.attended import FIRST_BYTE_S
from meshnode.terms import Job
from meshnode.testing.simulation import Simulation


async def mesh_of_three(simulation: Simulation) -> Node:
    """One that asks, and two that can answer."""
    a = await simulation.start("a", engine="none")
    for name in ("b", "c"):
        node = await simulation.start(name, engine="scripted", slots=1)
        await node.join(await a.invite())
    await simulation.until(lambda: sum(len(model.nodes) for model in a.models()) == 2)
    return a


def job(node: Node, tokens: int = 8) -> Job:
    made = job_from("Tell me a story.", {"max_tokens": tokens}, node.new_id(), node.scopes.tag)
    return msgspec.structs.replace(made, deadline_ms=120_000)


async def served(node: Node, made: Job) -> str:
    async with node.run(made) as running:
        by = running.answer.served_by.split("#")[0]
        async for _ in running.pieces:
            pass
    return by


def test_who_is_busy_at_this_moment_is_not_taken_and_the_decision_says_why(
    mesh: Callable[..., Any],
) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation)
        for name in ("b", "c"):
            engine = simulation.hosts[name].node.engines.all[0]
            assert isinstance(engine, ScriptedEngine)
            engine.answer_tokens = 1500
        async with a.run(job(a, 1000)) as running:
            busy = running.answer.served_by.split("#")[0]
            for _ in range(4):
                made = job(a)
                assert await served(a, made) != busy
                first, second = a.explain(made).candidates
                assert (first.place, first.asked, first.answered) == (1, True, True)
                assert (second.asked, second.in_flight) == (True, 1)
        assert [one.place for one in a.explain(job(a)).candidates] == [1, 2]

    mesh(play)


def test_a_wedged_peer_costs_one_wait_and_then_nothing(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation)
        engine = simulation.hosts["b"].node.engines.all[0]
        assert isinstance(engine, ScriptedEngine)
        engine._slots = trio.Semaphore(0)  # runs are taken in, and nothing comes of them
        waits = []
        for _ in range(8):
            began = trio.current_time()
            assert await served(a, job(a)) == "c"
            waits.append(trio.current_time() - began)
            await trio.sleep(0.2)
        slow = [wait for wait in waits if wait > FIRST_BYTE_S]
        assert len(slow) <= 1

    mesh(play)
