"""A revoked device is cut off by whoever hears of it, and stays out."""

from contextlib import AsyncExitStack

from meshnode import Node
from meshnode.node.presence import Presence
from meshnode.trust.certificates import certificate_of, revoke
from meshwire.ids import NodeId, node_id
from meshwire.records import read_record
from tests.node.small_mesh import WALL_S, World, until


def presence_of(node: Node) -> Presence:
    assert node.presence is not None
    return node.presence


def linked(node: Node) -> set[NodeId]:
    return {link.node for link in presence_of(node).links() if not link.joining}


async def test_a_revoked_device_is_cut_and_stays_out(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, b, c = await world.line(stack)
        at_a, at_c = presence_of(a), presence_of(c)
        key = a.identity.signer
        thief = node_id(c.identity.key)
        assert thief in linked(b)
        certificate = certificate_of(read_record(at_c.mesh.chain[0]))
        wall_ms = int(WALL_S * 1000)
        at_a.book.adopt(revoke(key, certificate, seq=at_a.book.next_seq(wall_ms), issued_ms=wall_ms), 0.0)
        at_a.gossip.nudge()
        await until(lambda: thief not in linked(b), within_s=15)
        for _ in range(20):  # it dials again and again
            await until(lambda: thief not in linked(b), within_s=0.1)
        assert thief not in at_a.view()
        assert thief not in presence_of(b).view()
