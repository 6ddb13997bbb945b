"""Joining and leaving, by whole nodes: what is refused comes out typed, and costs the node nothing."""

import pytest
import trio

from meshnode import Node
from meshnode.control.revoke import RevokeArguments
from meshnode.errors import (
    MeshError,
    NotAllowed,
    TicketExpired,
    TicketInvalid,
    TicketUsed,
    Unreachable,
    WrongMesh,
)
from tests.node.small_mesh import MODEL, World, text_of, until


def mesh_of(node: Node) -> str:
    return node.snapshot().mesh.id


@pytest.mark.parametrize("target", ["", "garbage", "mesh1garbage", "http://host:1", "ws://host:0"])
async def test_garbage_is_no_ticket(world: World, target: str) -> None:
    async with world.node("b") as b:
        mesh = mesh_of(b)
        with pytest.raises(TicketInvalid):
            await b.join(target)
        assert mesh_of(b) == mesh


async def test_a_damaged_ticket_is_told_from_a_valid_one(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b:
        ticket = await a.invite()
        with pytest.raises(TicketInvalid):
            await b.join(ticket[:40] + ("b" if ticket[40] != "b" else "c") + ticket[41:])
        await b.join(ticket)
        assert mesh_of(b) == mesh_of(a)
        assert b.snapshot().join_state == "joined"


async def test_a_ticket_expires(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b:
        ticket = await a.invite(expires_s=60)
        world.ahead_s = 3600.0
        await refused(b, ticket, TicketExpired)


async def test_a_ticket_lets_in_one_device(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b, world.node("c") as c:
        ticket = await a.invite()
        await b.join(ticket)
        await refused(c, ticket, TicketUsed)


async def test_a_ticket_is_for_its_own_mesh(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b, world.node("d"):
        with pytest.raises(WrongMesh):
            await b.join(await a.invite(), via="mem://d")


async def test_nobody_at_the_address_is_unreachable_and_not_a_bad_ticket(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b:
        with pytest.raises(Unreachable) as caught:
            await b.join(await a.invite(), via="mem://nowhere")
        assert type(caught.value) is Unreachable
        assert b.snapshot().join_state == "failed"
        assert "mem://nowhere" in b.snapshot().join_detail


async def test_a_node_cannot_join_itself(world: World) -> None:
    async with world.node("a") as a:
        with pytest.raises(NotAllowed, match="made that ticket"):
            await a.join(await a.invite())


async def test_joining_again_after_a_restart_changes_nothing_and_asks_nobody(world: World) -> None:
    async with world.node("a") as a:
        async with world.node("b") as b:
            ticket = await a.invite()
            await b.join(ticket)
            mesh = mesh_of(a)
        async with world.node("b") as b:
            await b.join(ticket)
            assert (mesh_of(b), b.snapshot().join_state) == (mesh, "joined")
            await b.join(spare := await a.invite())
    async with world.node("b") as b:  # nobody is there whom it could ask
        await b.join(ticket)
        assert mesh_of(b) == mesh
    async with world.node("a"), world.node("c") as c:
        await c.join(spare)
        assert mesh_of(c) == mesh


async def test_joining_an_open_mesh_again_changes_nothing(world: World) -> None:
    async with world.node("a", open_mesh=True) as a, world.node("d", open_mesh=True):
        async with world.node("b") as b:
            await b.join("mem://a")
        async with world.node("b") as b:
            await b.join("mem://a")
            assert mesh_of(b) == mesh_of(a)
            await until(lambda: bool(b.snapshot().links))
            with pytest.raises(NotAllowed, match="--leave"):
                await b.join("mem://d")


async def test_a_new_ticket_brings_back_who_counts_no_longer(world: World) -> None:
    """In the mesh that it was in, a device that was shut out is let in anew, and need not leave first."""
    async with world.node("a") as a, world.node("b") as b, world.node("c") as c:
        for node in (b, c):
            await node.join(await a.invite())
        await a.trust.revoke(RevokeArguments("b"))
        await until(lambda: not b.snapshot().links)
        await b.join(await a.invite())
        await until(lambda: {peer.name for peer in a.snapshot().peers if peer.trust != "none"} == {"b", "c"})
        assert b.snapshot().links


async def test_two_joins_at_once_do_not_mix(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b, world.node("d") as d:
        tickets = [await a.invite(), await d.invite()]
        outcomes: list[str] = []

        async def join(ticket: str) -> None:
            try:
                await b.join(ticket)
                outcomes.append("joined")
            except NotAllowed:
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for ticket in tickets:
                nursery.start_soon(join, ticket)
        assert sorted(outcomes) == ["joined", "refused"]


async def test_a_mesh_with_others_in_it_is_left_only_on_purpose(world: World) -> None:
    async with world.node("a") as a, world.node("b") as b, world.node("d") as d:
        await b.join(await a.invite())
        ticket = await d.invite()
        with pytest.raises(NotAllowed, match="--leave"):
            await b.join(ticket)
        assert mesh_of(b) == mesh_of(a)
        await b.join(ticket, leave=True)
        assert mesh_of(b) == mesh_of(d)
        await until(lambda: not a.snapshot().links)
        assert b.presence is not None
        assert b.presence.addresses == ("mem://b",)


async def test_an_ask_right_after_joining_finds_the_model(world: World) -> None:
    async with world.node("a", engine="scripted") as a, world.node("b") as b:
        await trio.sleep(2)
        await b.join(await a.invite())
        assert b.models()
        async with b.ask("hello", model=MODEL, max_tokens=2) as running:
            assert await text_of(running)


async def test_a_node_comes_back_from_its_home_without_a_ticket(world: World) -> None:
    async with world.node("a") as a:
        async with world.node("b") as b:
            await b.join(await a.invite())
            node, mesh = b.identity.node, mesh_of(b)
        await until(lambda: not a.snapshot().links)
        async with world.node("b") as again:
            await until(lambda: again.snapshot().links and a.snapshot().links)
            assert (again.identity.node, mesh_of(again)) == (node, mesh)
            assert [peer.state for peer in a.snapshot().peers] == ["linked"]
    async with world.node("b") as b, world.node("a") as a:
        await until(lambda: a.snapshot().links and b.snapshot().links)


async def test_a_node_that_was_away_too_long_comes_back_with_a_new_ticket(world: World) -> None:
    async with world.node("a") as a:
        async with world.node("b") as b:
            await b.join(await a.invite())
        world.ahead_s = 40 * 24 * 3600.0
        async with world.node("b") as b:
            await trio.sleep(5)
            assert not b.snapshot().links
            await b.join(await a.invite())
            assert b.snapshot().links


async def test_the_others_dial_a_node_where_it_has_moved_to(world: World) -> None:
    async with world.node("a", discover=True) as a:
        async with world.node("b") as b:
            await b.join(await a.invite())
            await until(lambda: a.snapshot().peers)
            await trio.sleep(3)  # for A to wish for a link to it
        async with world.node("b", place="b2") as b:
            await until(lambda: a.snapshot().links)
            await trio.sleep(3)  # for its new ad to come
            assert b.presence is not None
            b.presence.switch.unwant("mem://a")
            for link in b.presence.switch.links():
                await link.aclose()
            await until(lambda: any(link.address == "mem://b2" for link in a.snapshot().links))
            assert a.presence is not None
            assert a.presence.switch.last_failures == {}  # nobody dials the old place any more


async def test_anyone_joins_an_open_mesh_and_is_served_in_public(world: World) -> None:
    async with world.node("d", open_mesh=True, engine="scripted") as d, world.node("e") as e:
        await e.join("mem://d")
        assert mesh_of(e) == mesh_of(d)
        assert e.snapshot().mesh.open
        await until(e.models)
        with pytest.raises(MeshError, match="not trusted enough for the privacy class") as caught:
            async with e.ask("hello", model=MODEL):
                pytest.fail("nobody here may see a private prompt")
        assert caught.value.code == "no_candidate"
        async with e.ask("hello", model=MODEL, privacy="public", max_tokens=2) as running:
            assert await text_of(running)
            assert running.answer.trust == "member"


async def test_an_open_mesh_needs_no_tickets(world: World) -> None:
    async with world.node("d", open_mesh=True) as d:
        assert not d.may_invite
        with pytest.raises(NotAllowed):
            await d.invite()


async def test_a_closed_mesh_is_not_joined_by_address(world: World) -> None:
    async with world.node("a"), world.node("b") as b:
        await refused(b, "mem://a", NotAllowed)


async def refused(node: Node, target: str, kind: type[MeshError]) -> None:
    """The join is refused in that way, and the node is where it was."""
    mesh = mesh_of(node)
    with pytest.raises(kind):
        await node.join(target)
    assert mesh_of(node) == mesh
    assert node.snapshot().join_state == "failed"
