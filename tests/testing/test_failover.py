"""Answers that outlive who serves them, in simulated meshes: every token once, and one end."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine
from meshnode.errors import Interrupted
from meshnode.node import Node
from meshnode.terms import End, Piece, Turn
from meshnode.testing.simulation import Simulation

TOKENS = 60
Break = Callable[[Simulation, str], Any]


async def mesh_of_three(simulation: Simulation, *, two_models: bool = True) -> Node:
    """One that asks, and two that can answer."""
    a = await simulation.start("a", engine="none")
    for name, engine in (("b", "scripted"), ("c", "scripted" if two_models else "none")):
        node = await simulation.start(name, engine=engine)
        await node.join(await a.invite())
    offering = 2 if two_models else 1
    await simulation.until(lambda: sum(len(model.nodes) for model in a.models()) == offering)
    return a


async def answer(
    simulation: Simulation, node: Node, broken: Break | None, prompt: str | list[Turn] = "Tell me a story."
) -> tuple[list[int], str, int]:
    """The ids, the text and the number of ends of an answer that is broken off after a few tokens."""
    ids: list[int] = []
    text, ends = "", 0
    async with node.ask(prompt, max_tokens=TOKENS, temperature=0.0) as running:
        by = running.answer.served_by.split("#")[0]
        async for item in running.pieces:
            ends += isinstance(item, End)
            if isinstance(item, Piece):
                assert item.first_index == len(ids)
                ids += item.ids
                text += item.text
            if broken is not None and len(ids) > 5:
                await broken(simulation, by)
                broken = None
    return ids, text, ends


async def crash(simulation: Simulation, by: str) -> None:
    await simulation.crash(by)


async def fail_power(simulation: Simulation, by: str) -> None:
    await simulation.crash(by, silent=True)


async def part(simulation: Simulation, by: str) -> None:
    simulation.partition("a", by)


async def hold(simulation: Simulation, by: str) -> None:
    simulation.hold("a", by)


async def reset(simulation: Simulation, by: str) -> None:
    simulation.reset("a", by)


async def stop(simulation: Simulation, by: str) -> None:
    await simulation.stop(by)


@pytest.mark.parametrize(
    ("broken", "within_s"),
    [(crash, 5.0), (stop, 5.0), (fail_power, 5.0), (part, 5.0), (hold, 5.0), (reset, 5.0)],
    ids=("crash", "stop", "no power", "partition", "hold", "reset"),
)
def test_an_answer_goes_on_elsewhere_as_if_nothing_had_happened(
    mesh: Callable[..., Any], broken: Break, within_s: float
) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation)
        whole = await answer(simulation, a, None)
        begun = trio.current_time()
        assert await answer(simulation, a, broken) == whole
        assert whole[2] == 1
        assert trio.current_time() - begun < within_s

    mesh(play)


def test_a_bare_text_goes_on_elsewhere_too(mesh: Callable[..., Any]) -> None:
    text = [Turn(role="text", content="Once upon a time")]

    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation)
        whole = await answer(simulation, a, None, text)
        assert whole != await answer(simulation, a, None, "Once upon a time")
        assert await answer(simulation, a, crash, text) == whole
        assert whole[2] == 1

    mesh(play)


def test_where_nobody_else_has_the_weights_there_is_one_error(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation, two_models=False)
        begun = trio.current_time()
        with pytest.raises(Interrupted):
            await answer(simulation, a, crash)
        assert trio.current_time() - begun < 15

    mesh(play)


async def behind_relays(simulation: Simulation) -> Node:
    """One that asks, and one that can answer, which reach each other through either of two relays only."""
    first = await simulation.start("relay0", engine="none", discover=False)
    await simulation.start("relay1", engine="none", discover=False)
    await simulation.host("relay1").node.join(await first.invite())
    bootstrap = ["mem://relay0", "mem://relay1"]
    for name, engine in (("a", "none"), ("b", "scripted")):
        node = await simulation.start(name, engine=engine, discover=False, bootstrap=bootstrap)
        await node.join(await first.invite())
    a, b = (simulation.host(name).node for name in ("a", "b"))
    await simulation.until(lambda: len(a.snapshot().links) == len(b.snapshot().links) == 2)
    await simulation.until(a.models)
    await trio.sleep(5)  # for all to be told of all links
    return a


async def crash_relay(simulation: Simulation, relay: str) -> None:
    await simulation.crash(relay)


async def fail_relays_power(simulation: Simulation, relay: str) -> None:
    await simulation.crash(relay, silent=True)


async def part_from_worker(simulation: Simulation, relay: str) -> None:
    simulation.partition(relay, "b")


async def part_from_asker(simulation: Simulation, relay: str) -> None:
    simulation.partition("a", relay)


@pytest.mark.parametrize("broken", [crash_relay, fail_relays_power, part_from_worker, part_from_asker])
def test_an_answer_goes_on_over_another_relay_without_being_computed_again(
    mesh: Callable[..., Any], broken: Break
) -> None:
    async def play(simulation: Simulation) -> None:
        a = await behind_relays(simulation)
        (engine,) = simulation.host("b").node.bench.engines
        assert isinstance(engine, ScriptedEngine)
        engine.answer_tokens = 200
        indexes: list[int] = []
        whole, begun = True, trio.current_time()
        async with a.ask("Tell me a story.") as running:
            relay = running.answer.path[1].split("#")[0]
            async for item in running.pieces:
                if isinstance(item, Piece):
                    indexes += [item.first_index + place for place in range(len(item.ids))]
                if whole and len(indexes) >= 20:
                    whole = False
                    await broken(simulation, relay)
        assert not whole
        assert indexes == [*range(200)]
        assert trio.current_time() - begun < 2 + 5
        assert len(engine.finished_jobs) == 1
        assert engine.cancelled_jobs == []

    mesh(play)


def test_a_cancel_is_at_the_worker_within_a_one_way_trip(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await behind_relays(simulation)
        (engine,) = simulation.host("b").node.bench.engines
        async with a.ask("Tell me a story.") as running:
            await anext(running.pieces)
            assert engine.load.in_flight == 1
        await trio.sleep(0.25)
        assert engine.load.in_flight == 0

    mesh(play)


def test_a_node_that_stalls_is_not_given_up(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation)

        async def stall(_simulation: Simulation, by: str) -> None:
            simulation.shape(by, ("a", "b", "c"), delay_s=0.4)

        whole = await answer(simulation, a, stall)
        assert whole[2] == 1
        engines = [engine for name in "bc" for engine in simulation.host(name).node.bench.engines]
        runs = [job for engine in engines for job in engine.finished_jobs + engine.cancelled_jobs]  # type: ignore[attr-defined]
        assert len(runs) == 1

    mesh(play)
