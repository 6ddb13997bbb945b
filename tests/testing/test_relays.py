"""Relays in whole meshes: reserved by who cannot be dialled, renewed, refused, left for a direct link."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from meshnode.errors import MeshError
from meshnode.mesh import relaying as mesh_relaying
from meshnode.net.dht import Dht
from meshnode.node import Node, seeking
from meshnode.testing.simulation import Simulation

LEASE_S = 10


def named_by(node: Node, name: str) -> set[str]:
    """The names of the relays in that node's record, as another node has it."""
    assert node.presence is not None
    view = node.presence.view()
    names = {peer.node: peer.name for peer in view.values()} | {node.presence.book.own: node.config.name}
    ads = [peer.ad for peer in view.values() if peer.name == name and peer.ad is not None]
    return {names.get(relay, "?") for ad in ads for relay in ad.relays}  # type: ignore[arg-type]


async def path_of_an_answer(node: Node, simulation: Simulation) -> tuple[str, ...]:
    """Whom an answer comes through, by name."""
    async with node.ask("Why?", max_tokens=3, deadline_s=20) as running:
        async for piece in running.pieces:
            simulation.note(piece)
        return tuple(label.split("#")[0] for label in running.answer.path)


async def hidden_behind(simulation: Simulation, *relays: str, **settings: Any) -> Node:
    """A node `asker`, relays that it and `hidden` are linked with, and `hidden`, which serves; the asker."""
    asker = await simulation.start("asker", engine="none", discover=False)
    for name in relays:
        relay = await simulation.start(name, engine="none", **settings)
        await relay.join(await asker.invite())
    hidden = await simulation.start("hidden", reachable=False)
    simulation.partition("asker", "hidden")
    await hidden.join(await asker.invite(), via=f"mem://{relays[0]}")
    await simulation.until(asker.models)
    return asker


def nobody_dials_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a mesh so large that a node is linked to few of it."""

    async def rest(_dht: Dht, *_args: object) -> None:
        """Neither announce nor look up."""

    monkeypatch.setattr(seeking, "LINKS_WANTED_SMALL", 0)
    monkeypatch.setattr(Dht, "run", rest)
    monkeypatch.setattr(Dht, "find_providers", rest)


def test_a_node_that_cannot_be_dialled_names_its_relays_as_they_come_and_go(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        asker = await hidden_behind(simulation, "first", "second")
        await simulation.until(lambda: named_by(asker, "hidden") == {"first", "second"})
        await simulation.crash("first")
        await simulation.until(lambda: named_by(asker, "hidden") == {"second"})
        assert await path_of_an_answer(asker, simulation) == ("asker", "second", "hidden")
        await simulation.restart("first")
        await simulation.until(lambda: named_by(asker, "hidden") == {"first", "second"})
        await simulation.crash("second")
        await simulation.until(lambda: named_by(asker, "hidden") == {"first"})
        assert await path_of_an_answer(asker, simulation) == ("asker", "first", "hidden")

    mesh(play)


def test_a_reservation_is_renewed_for_as_long_as_there_is_a_link_and_ends_without(
    mesh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play(simulation: Simulation) -> None:
        asker = await hidden_behind(simulation, "relay")
        relay = simulation.host("relay").node.presence
        assert relay is not None
        relaying = relay.relaying
        await simulation.until(lambda: relaying.served(trio.current_time()) == 1)
        for _ in range(3):
            await trio.sleep(LEASE_S)
            assert await path_of_an_answer(asker, simulation) == ("asker", "relay", "hidden")
        simulation.partition("hidden", "relay")
        await simulation.until(lambda: relaying.served(trio.current_time()) == 0, within_s=LEASE_S + 2)

    monkeypatch.setattr(mesh_relaying, "RELAY_LEASE_S", LEASE_S)
    mesh(play)


def test_a_node_that_carries_nothing_is_no_relay_and_no_link_of_a_route(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        asker = await simulation.start("asker", engine="none", discover=False)
        unwilling = await simulation.start("unwilling", engine="none", relay=False)
        await unwilling.join(await asker.invite())
        hidden = await simulation.start("hidden", reachable=False)
        simulation.partition("asker", "hidden")
        await hidden.join(await asker.invite(), via="mem://unwilling")
        await simulation.until(asker.models)
        assert named_by(asker, "hidden") == set()
        with pytest.raises(MeshError, match="no path"):
            await path_of_an_answer(asker, simulation)
        willing = await simulation.start("willing", engine="none")
        await willing.join(await asker.invite())
        await simulation.until(lambda: named_by(asker, "hidden") == {"willing"})
        assert await path_of_an_answer(asker, simulation) == ("asker", "willing", "hidden")

    mesh(play)


@pytest.mark.parametrize("reachable", [True, False], ids=("asker dials", "server dials"))
def test_after_a_circuit_requests_take_the_direct_link_that_it_led_to(
    mesh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, reachable: bool
) -> None:
    async def play(simulation: Simulation) -> None:
        asker = await simulation.start("asker", engine="none")
        middle = await simulation.start("middle", engine="none")
        await middle.join(await asker.invite())
        server = await simulation.start("server", reachable=reachable)
        await server.join(await asker.invite(), via="mem://middle")
        await trio.sleep(3)  # until the way there is known too
        assert await path_of_an_answer(asker, simulation) == ("asker", "middle", "server")
        await trio.sleep(1)
        assert await path_of_an_answer(asker, simulation) == ("asker", "server")

    nobody_dials_by_itself(monkeypatch)
    mesh(play, delay_s=(0.01, 0.01))


@pytest.mark.parametrize("reachable", [True, False])
def test_a_holder_too_far_away_is_come_near_to(
    mesh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, reachable: bool
) -> None:
    async def play(simulation: Simulation) -> None:
        asker = await simulation.start("asker", engine="none")
        before = "asker"
        for name in ("one", "two", "three"):
            node = await simulation.start(name, engine="none")
            await node.join(await asker.invite(), via=f"mem://{before}")
            before = name
        server = await simulation.start("server", reachable=reachable)
        await server.join(await asker.invite(), via="mem://three")
        await simulation.until(asker.models)
        monkeypatch.setattr(seeking, "APPROACH_LINKS", 9)
        way = ("asker", "server") if reachable else ("asker", "three", "server")
        assert await path_of_an_answer(asker, simulation) == way

    nobody_dials_by_itself(monkeypatch)
    monkeypatch.setattr(seeking, "APPROACH_LINKS", 0)  # joining lays circuits too
    mesh(play)
