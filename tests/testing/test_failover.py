"""Answers that outlive who serves them, in simulated meshes: every token once, and one end."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from meshnode.errors import Interrupted
from meshnode.node import Node
from meshnode.terms import End, Piece
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


async def answer(simulation: Simulation, node: Node, broken: Break | None) -> tuple[list[int], str, int]:
    """The ids, the text and the number of ends of an answer that is broken off after a few tokens."""
    ids: list[int] = []
    text, ends = "", 0
    async with node.ask("Tell me a story.", max_tokens=TOKENS, temperature=0.0) as running:
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


async def stop(simulation: Simulation, by: str) -> None:
    await simulation.stop(by)


@pytest.mark.parametrize(
    ("broken", "within_s"),
    [(crash, 5.0), (stop, 5.0), (fail_power, 15.0), (part, 15.0)],
    ids=("crash", "stop", "no power", "partition"),
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


def test_where_nobody_else_has_the_weights_there_is_one_error(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation, two_models=False)
        begun = trio.current_time()
        with pytest.raises(Interrupted):
            await answer(simulation, a, crash)
        assert trio.current_time() - begun < 15

    mesh(play)
