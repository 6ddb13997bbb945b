"""Joining over links: directly, through a member, again, and everything that must be refused."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from meshnode.errors import (
    ClockSkew,
    JoinRefused,
    MeshError,
    NotAllowed,
    Revoked,
    TicketExpired,
    TicketUnknown,
    TicketUsed,
    Unreachable,
    WrongMesh,
    WrongProtocol,
)
from meshnode.identity import Identity, create
from meshnode.net.membership import JoinLink, Membership, redeem
from meshnode.seams import Seams, inline
from meshnode.state.store import Store, open_store
from meshnode.terms import Trust
from meshnode.trust.membership import Mesh, found_closed, found_open, join_closed
from meshnode.trust.tickets import Ticket, row_of, ticket_id
from meshwire.messages import Join, Joined, Ping
from meshwire.numbers import Message
from meshwire.signing import Signer

RNG = random.Random(3)
ROOT = Signer(b"\x01" * 32)
ISSUER, MEMBER, JOINER, OTHER = (create(RNG.randbytes) for _ in range(4))
NOW_S = 1_700_000_000.0
NOW = int(NOW_S * 1000)
HOUR = 3_600_000
SEAMS = Seams(wall=lambda: NOW_S, rng=RNG, entropy=RNG.randbytes, blocking=inline)

Answer = Callable[[Message], Awaitable[Message]]


@dataclass
class FakeLink:
    """A link as one end sees it; `answer` is the other end."""

    key: bytes
    handshake_hash: bytes = b"h" * 32
    joining: bool = True
    chain: tuple[bytes, ...] = ()
    answer: Answer | None = None
    sent: list[Message] = field(default_factory=list)

    async def request(self, message: Message, timeout_s: float = 3.0) -> Message:
        assert timeout_s > 0
        self.sent.append(message)
        if self.answer is None:
            raise Unreachable("The link is down.")
        return await self.answer(message)


@dataclass
class Node:
    """An issuer or a member, with what it has published."""

    membership: Membership
    mesh: Mesh
    store: Store
    known: dict[bytes, JoinLink]
    published: list[bytes]


def node(identity: Identity, mesh: Mesh, store: Store, seams: Seams = SEAMS) -> Node:
    known: dict[bytes, JoinLink] = {}
    published: list[bytes] = []

    async def find(key: bytes) -> JoinLink | None:
        return known.get(key)

    membership = Membership(
        identity,
        mesh,
        store,
        seams,
        find=find,
        next_seq=lambda: store.next_seq(NOW),
        publish=published.append,
    )
    return Node(membership, mesh, store, known, published)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path, inline)
    yield opened
    await opened.aclose()


@pytest.fixture
async def issuer(store: Store) -> Node:
    mesh = found_closed(ROOT, ISSUER, name="home", node_name="desk", serial=b"12345678", now_ms=NOW)
    await store.add_ticket(row_of(TICKET, labels=("trusted",)), NOW)
    return node(ISSUER, mesh, store)


TICKET = Ticket(ROOT.public, ISSUER.key, ("mem://issuer",), b"s" * 16, NOW + HOUR, "home")


def direct(issuer: Node, joiner: Identity = JOINER) -> FakeLink:
    """The joiner's end of a link to the issuer."""
    theirs = FakeLink(joiner.key)

    async def answer(message: Message) -> Message:
        assert isinstance(message, Join)
        return await issuer.membership.answer(theirs, message)

    return FakeLink(ISSUER.key, chain=issuer.mesh.chain, answer=answer)


async def join(link: FakeLink, ticket: Ticket = TICKET, joiner: Identity = JOINER, now_ms: int = NOW) -> Mesh:
    chain = await redeem(link, ticket, joiner, name="laptop", now_ms=now_ms)
    return join_closed(ticket.root_key, chain, joiner.key, name="home", now_ms=now_ms)


async def test_a_joiner_becomes_a_member_in_one_request(issuer: Node) -> None:
    link = direct(issuer)
    mesh = await join(link)
    standing = issuer.mesh.standing(mesh.chain, JOINER.key, NOW)
    assert standing.roles == ("member",)
    assert standing.trust is Trust.TRUSTED
    assert standing.name == "laptop"
    assert issuer.published == [mesh.chain[0]]
    assert len(link.sent) == 1


async def test_the_secret_never_travels(issuer: Node) -> None:
    link = direct(issuer)
    await join(link)
    assert TICKET.secret not in msgspec.msgpack.encode(link.sent[0])


async def test_a_lost_reply_can_be_asked_for_again(issuer: Node) -> None:
    first = await join(direct(issuer))
    again = await join(direct(issuer))
    assert again == first
    assert len(issuer.published) == 1


async def test_a_ticket_is_for_one_device(issuer: Node) -> None:
    await join(direct(issuer))
    with pytest.raises(TicketUsed, match="for one device"):
        await join(direct(issuer, OTHER), joiner=OTHER)


async def test_the_redemption_is_committed_before_the_reply(issuer: Node) -> None:
    """The certificate handed out is the one on disk, so that a crash after the commit changes nothing."""
    mesh = await join(direct(issuer))
    row = await issuer.store.ticket(ticket_id(TICKET.secret))
    assert row is not None
    assert (row.redeemed_by, row.certificate) == (JOINER.key, mesh.chain[0])


class BrokenStore:
    """A store whose disk is full when the redemption is to be written."""

    def __init__(self, store: Store) -> None:
        self.ticket = store.ticket

    async def redeem_ticket(self, *_: bytes) -> None:
        raise MeshError("disk full")


async def test_no_certificate_leaves_that_could_not_be_committed(issuer: Node) -> None:
    issuer.membership._store = BrokenStore(issuer.store)  # type: ignore[assignment] # a fake
    with pytest.raises(MeshError, match="disk full"):
        await join(direct(issuer))
    assert issuer.published == []


async def test_two_at_once_share_no_ticket(issuer: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pass the first check; the second to commit is refused."""
    link = direct(issuer)
    stored = await issuer.store.ticket(ticket_id(TICKET.secret))

    async def stale(_: bytes) -> object:
        return stored

    monkeypatch.setattr(issuer.store, "ticket", stale)
    await join(link)
    with pytest.raises(TicketUsed):
        await join(direct(issuer, OTHER), joiner=OTHER)
    assert len(issuer.published) == 1


@pytest.mark.parametrize(
    ("ticket", "now_ms", "error", "hint"),
    [
        (msgspec.structs.replace(TICKET, secret=b"x" * 16), NOW, TicketUnknown, "meshnode invite"),
        (msgspec.structs.replace(TICKET, root_key=Signer(bytes(32)).public), NOW, WrongMesh, "which mesh"),
        (TICKET, NOW + 11 * 60_000, ClockSkew, "clocks right"),
        (TICKET, NOW - 11 * 60_000, ClockSkew, "clock right"),
    ],
    ids=["unknown", "another mesh", "clock ahead", "clock behind"],
)
async def test_refusals(issuer: Node, ticket: Ticket, now_ms: int, error: type[MeshError], hint: str) -> None:
    with pytest.raises(error) as caught:
        await join(direct(issuer), ticket, now_ms=now_ms)
    assert hint in caught.value.hint
    assert issuer.published == []


async def test_an_expired_ticket(store: Store, issuer: Node) -> None:
    late = Seams(wall=lambda: NOW_S + 3601, entropy=RNG.randbytes, blocking=inline)
    with pytest.raises(TicketExpired, match="meshnode invite"):
        await join(direct(node(ISSUER, issuer.mesh, store, late)))


async def test_nothing_is_sent_to_a_node_of_another_mesh() -> None:
    stranger = Signer(b"\x09" * 32)
    mesh = found_closed(stranger, OTHER, name="", node_name="", serial=b"12345678", now_ms=NOW)
    link = FakeLink(OTHER.key, chain=mesh.chain)
    with pytest.raises(WrongMesh):
        await join(link)
    assert link.sent == []


async def test_nothing_is_sent_to_a_node_that_borrows_a_chain(issuer: Node) -> None:
    link = FakeLink(OTHER.key, chain=issuer.mesh.chain)
    with pytest.raises(NotAllowed):
        await join(link)
    assert link.sent == []


async def test_a_reply_that_proves_nothing_is_not_believed(issuer: Node) -> None:
    async def wrong_chain(_: Message) -> Message:
        return Joined(issuer.mesh.chain)

    async def wrong_type(_: Message) -> Message:
        return Ping(1)

    for answer, error in ((wrong_chain, NotAllowed), (wrong_type, WrongProtocol)):
        link = FakeLink(ISSUER.key, chain=issuer.mesh.chain, answer=answer)
        with pytest.raises(error):
            await redeem(link, TICKET, JOINER, name="laptop", now_ms=NOW)


async def test_the_issuer_believes_its_own_hash_and_not_the_joiners(issuer: Node) -> None:
    """A request overheard on another link does not work here, whatever binding it brings."""
    link = direct(issuer)
    await join(link)
    overheard = link.sent[0]
    assert isinstance(overheard, Join)
    await issuer.store.forget_mesh()
    await issuer.store.add_ticket(row_of(TICKET, labels=()), NOW)
    with pytest.raises(TicketUnknown):
        await issuer.membership.answer(FakeLink(JOINER.key, handshake_hash=b"k" * 32), overheard)


async def test_a_link_that_was_just_promoted_still_has_one_hash(issuer: Node) -> None:
    """Once certified, the node at the other end is a member, but no forwarder of its own request."""
    link = direct(issuer)
    await join(link)
    request = link.sent[0]
    assert isinstance(request, Join)
    promoted = FakeLink(JOINER.key, handshake_hash=b"k" * 32, joining=False)
    with pytest.raises(TicketUnknown):
        await issuer.membership.answer(promoted, request)


async def test_a_joiner_asks_for_its_own_key_only(issuer: Node) -> None:
    link = direct(issuer)
    await join(link)
    request = link.sent[0]
    assert isinstance(request, Join)
    with pytest.raises(NotAllowed, match="own key"):
        await issuer.membership.answer(FakeLink(OTHER.key), request)


# --- Through a member ---


@dataclass
class Chain:
    """A joiner's link to a member, which has a link to the issuer."""

    link: FakeLink
    member: Node
    to_issuer: FakeLink


@pytest.fixture
async def through(issuer: Node, store: Store) -> Chain:
    row = msgspec.structs.replace(TICKET, secret=b"m" * 16)
    await store.add_ticket(row_of(row, labels=()), NOW)
    mesh = await join(direct(issuer, MEMBER), row, MEMBER)
    member = node(MEMBER, mesh, store)
    at_issuer = FakeLink(MEMBER.key, handshake_hash=b"member link".ljust(32), joining=False, chain=mesh.chain)

    async def issuer_answers(message: Message) -> Message:
        assert isinstance(message, Join)
        return await issuer.membership.answer(at_issuer, message)

    to_issuer = FakeLink(ISSUER.key, joining=False, answer=issuer_answers)
    member.known[ISSUER.key] = to_issuer
    at_member = FakeLink(JOINER.key, handshake_hash=b"joiner link".ljust(32))

    async def member_answers(message: Message) -> Message:
        assert isinstance(message, Join)
        return await member.membership.answer(at_member, message)

    link = FakeLink(
        MEMBER.key, handshake_hash=at_member.handshake_hash, chain=mesh.chain, answer=member_answers
    )
    return Chain(link, member, to_issuer)


async def test_a_member_forwards_to_the_issuer(through: Chain, issuer: Node) -> None:
    mesh = await join(through.link)
    assert issuer.mesh.standing(mesh.chain, JOINER.key, NOW).roles == ("member",)
    assert through.member.published == []


async def test_the_forwarder_fills_in_the_binding_itself(through: Chain, issuer: Node) -> None:
    """A joiner that lies about its binding is forwarded with the true one."""
    await join(through.link)
    forwarded, told = through.to_issuer.sent[0], through.link.sent[0]
    assert isinstance(forwarded, Join)
    assert isinstance(told, Join)
    lie = msgspec.structs.replace(told, binding=b"a lie".ljust(32))
    assert through.link.answer is not None
    assert isinstance(await through.link.answer(lie), Joined)
    again = through.to_issuer.sent[1]
    assert isinstance(again, Join)
    assert again.binding == forwarded.binding == through.link.handshake_hash


async def test_a_forwarder_cannot_put_in_its_own_key(through: Chain, issuer: Node) -> None:
    await join(through.link)
    forwarded = through.to_issuer.sent[0]
    assert isinstance(forwarded, Join)
    await issuer.store.forget_mesh()
    await issuer.store.add_ticket(row_of(TICKET, labels=()), NOW)
    stolen = msgspec.structs.replace(forwarded, key=OTHER.key)
    with pytest.raises(TicketUnknown):
        await through.to_issuer.request(stolen)


async def test_a_refusal_comes_back_as_it_is(through: Chain) -> None:
    with pytest.raises(TicketUnknown):
        await join(through.link, msgspec.structs.replace(TICKET, secret=b"x" * 16))


async def test_an_issuer_out_of_reach_is_said_so(through: Chain) -> None:
    through.member.known.clear()
    with pytest.raises(Unreachable, match="Switch it on"):
        await join(through.link)


async def test_a_request_is_forwarded_once(through: Chain) -> None:
    await join(through.link)
    forwarded = through.to_issuer.sent[0]
    assert isinstance(forwarded, Join)
    elsewhere = FakeLink(OTHER.key, joining=False)
    with pytest.raises(NotAllowed, match="forwarded once"):
        await through.member.membership.answer(elsewhere, forwarded)


async def test_an_open_mesh_certifies_nobody(store: Store) -> None:
    lonely = node(ISSUER, found_open(RNG.randbytes), store)
    request = Join(b"t" * 8, b"m" * 32, JOINER.key, b"h" * 32, ISSUER.key)
    with pytest.raises(NotAllowed):
        await lonely.membership.answer(FakeLink(JOINER.key), request)


def test_refusals_are_join_refusals() -> None:
    for kind in (TicketUnknown, TicketUsed, TicketExpired, ClockSkew, Revoked):
        assert issubclass(kind, JoinRefused)
