"""Hostile peers of the simulator: each does its misdeed, and the mesh of those of good will holds."""

from collections.abc import Callable
from functools import partial

import pytest
import trio

from meshnode.errors import MeshError, NotAllowed
from meshnode.net.link import Link
from meshnode.node import Node
from meshnode.testing import misdeeds
from meshnode.testing.hostile import HonestAnswer, Hostile, HostilePresence
from meshnode.testing.simulation import Simulation, simulate
from meshwire.ids import to_text
from meshwire.messages import DhtFind
from meshwire.numbers import Message

Kind = Callable[[], Hostile]
IN_CLOSED: list[Kind] = [
    misdeeds.HidesProviders,
    misdeeds.StoresForOthers,
    misdeeds.Equivocates,
    misdeeds.NeverAnswers,
    misdeeds.FloodsStreams,
    misdeeds.FloodsCircuits,
]
IN_OPEN: list[Kind] = [
    misdeeds.NamesFarNodes,
    misdeeds.InventsNodes,
    misdeeds.Replays,
    misdeeds.PostDates,
    partial(misdeeds.FloodsStores, per_s=20),
]


async def mesh_with(simulation: Simulation, hostile: Hostile, *, is_open: bool = False) -> list[Node]:
    """Three of good will, of whom b has the model, and a hostile one."""
    simulation.shape("h", ("a", "b", "c"), delay_s=0.2)  # so that it is on nobody's way
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


@pytest.mark.parametrize(
    ("kind", "is_open"),
    [*((kind, False) for kind in IN_CLOSED), *((kind, True) for kind in IN_OPEN)],
    ids=lambda of: ("closed", "open")[of] if isinstance(of, bool) else of().name,
)
def test_one_hostile_node_keeps_nobody_from_an_answer(kind: Kind, is_open: bool) -> None:
    async def play(simulation: Simulation) -> None:
        nodes = await mesh_with(simulation, kind(), is_open=is_open)
        await trio.sleep(8)
        for node in (nodes[0], nodes[2]):
            assert len(await told(node)) == 5
            assert {name for model in node.models() for name in model.nodes} == {
                to_text(nodes[1].identity.node)
            }

    simulate(1, play)


@pytest.mark.parametrize("kind", [misdeeds.DropsRelayed, misdeeds.BendsRelayed, misdeeds.TruncatesRelayed])
def test_a_bad_relay_costs_the_answer_and_never_changes_it(kind: Kind) -> None:
    async def play(simulation: Simulation) -> None:
        a = await simulation.start("a", engine="none", discover=False)
        relay = await simulation.start("h", engine="none", discover=False, hostile=kind())
        b = await simulation.start("b", discover=False)
        await relay.join(await a.invite())
        await b.join(await a.invite(), via="mem://h")
        await simulation.until(a.models)
        with pytest.raises(MeshError):
            await told(a)

    simulate(1, play)


def test_a_user_writes_a_misdeed_of_its_own_and_the_timeline_names_it() -> None:
    class Rude(Hostile):
        """Turns every request down."""

        async def answer(
            self, me: HostilePresence, link: Link, message: Message, honest: HonestAnswer
        ) -> Message | None:
            raise NotAllowed("Go away.")

    async def play(simulation: Simulation) -> str:
        nodes = await mesh_with(simulation, Rude())
        await trio.sleep(1)
        link = nodes[0].presence.switch.direct(nodes[3].identity.node)  # type: ignore[union-attr]
        assert link is not None
        with pytest.raises(NotAllowed, match="Go away"):
            await link.request(DhtFind(bytes(20)))
        return simulation.timeline.told()

    assert "start h, hostile: Rude" in simulate(1, play)
