"""A play for three whole nodes: they join, one without a model asks, a link is cut and healed."""

import sys

from meshnode.errors import MeshError
from meshnode.testing.simulation import Simulation, simulate


async def three_nodes(simulation: Simulation) -> str:
    async with (
        simulation.node("a", engine="none", discover=False) as a,
        simulation.node("b", engine="none", discover=False) as b,
        simulation.node("c", discover=False) as c,
    ):
        await b.join(await a.invite())
        await c.join(await a.invite(), via="mem://b")
        await simulation.until(a.models)
        for question in ("Why is the sky blue?", "And the sea?"):
            async with a.ask(question, max_tokens=12) as running:
                simulation.note(running.answer)
                async for piece in running.pieces:
                    simulation.note(piece)
        simulation.network.partition("b", "c")
        try:
            async with a.ask("Anyone?", deadline_s=20) as running:
                simulation.note(running.answer)
        except MeshError as error:
            simulation.note(error)
        simulation.network.heal("b", "c")
        await simulation.until(lambda: len(b.snapshot().links) == 2)
        async with a.ask("Back?", max_tokens=4) as running:
            async for piece in running.pieces:
                simulation.note(piece)
    return f"{simulation.messages} {simulation.digest}"


if __name__ == "__main__":
    print(simulate(int(sys.argv[1]), three_nodes))
