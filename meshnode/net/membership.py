"""Joining, over links: the issuer's side, the member's that only forwards, and the joiner's own.

The rules are `trust.tickets`; what is kept is in the store. It opens no links and knows no addresses.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from meshnode.errors import NotAllowed, Unreachable, WrongProtocol
from meshnode.identity import Identity
from meshnode.seams import Seams
from meshnode.state.store import Store
from meshnode.trust.certificates import issue_member, verify_chain
from meshnode.trust.membership import Mesh, new_serial, require_issuer
from meshnode.trust.tickets import Ticket, TicketRow, check_redeemed, check_redemption, mac, ticket_id
from meshwire.messages import Join, Joined
from meshwire.numbers import Message

FORWARD_S = 8.0
JOIN_S = 10.0  # longer than a forward, so that the forwarder's own error arrives


class JoinLink(Protocol):
    """What this needs of a link."""

    @property
    def key(self) -> bytes:
        """The other end's public key."""
        ...

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The other end's raw certificates."""
        ...

    @property
    def handshake_hash(self) -> bytes:
        """The link's own name, which both ends know."""
        ...

    @property
    def joining(self) -> bool:
        """Whether the other end (or this one) has no certificate yet."""
        ...

    async def request(self, message: Message, timeout_s: float = 3.0) -> Message:
        """The reply to a request; raises Unreachable or the error that was answered."""
        ...


class Membership:
    """Answers Join requests on behalf of one node of a mesh, which it knows as `mesh` now.

    `find` gives a link to the node with a key, if there is one to be had; `next_seq` the next seq of this
    node's records; `publish` takes each certificate issued, to be gossiped.
    """

    def __init__(
        self,
        identity: Identity,
        mesh: Mesh,
        store: Store,
        seams: Seams,
        *,
        find: Callable[[bytes], Awaitable[JoinLink | None]],
        next_seq: Callable[[], Awaitable[int]],
        publish: Callable[[bytes], None],
    ) -> None:
        self._identity = identity
        self.mesh = mesh
        self._store = store
        self._seams = seams
        self._find = find
        self._next_seq = next_seq
        self._publish = publish

    async def answer(self, link: JoinLink, join: Join) -> Joined:
        """Certify the joiner if this node is the issuer asked, else pass the request on to it.

        Raises a JoinRefused that says why, Unreachable when the issuer is not in reach, or NotAllowed.
        """
        if link.joining and join.key != link.key:
            raise NotAllowed("A node may ask for a certificate only for its own key.")
        if join.issuer == self._identity.key:
            return await self._redeem(join, binding=_binding(link, join))
        if not link.joining:
            raise NotAllowed("A request to join is forwarded once, to the issuer itself.")
        return await self._forward(link, join)

    async def _redeem(self, join: Join, *, binding: bytes) -> Joined:
        require_issuer(self.mesh)
        row = check_redemption(
            await self._store.ticket(join.ticket),
            proof=join.mac,
            binding=binding,
            key=join.key,
            wall_ms=join.wall_ms,
            now_ms=self._seams.now_ms(),
        )
        if not row.redeemed_by:
            row = await self._certify(join, row)
        return Joined((row.certificate, *self.mesh.chain))

    async def _certify(self, join: Join, row: TicketRow) -> TicketRow:
        """Sign a certificate and commit it with the redemption, before anybody hears of it."""
        now_ms = self._seams.now_ms()
        record = issue_member(
            self._identity.signer,
            mesh=self.mesh.id,
            key=join.key,
            name=join.name,
            serial=new_serial(self._seams.entropy),
            seq=await self._next_seq(),
            issued_ms=now_ms,
            labels=row.labels,
        )
        committed = await self._store.redeem_ticket(row.id, join.key, record.raw)
        # Two requests may have passed the check together; the store let one of them through.
        settled = check_redeemed(committed, join.key)
        self._publish(settled.certificate)
        return settled

    async def _forward(self, link: JoinLink, join: Join) -> Joined:
        issuer = await self._find(join.issuer)
        if issuer is None:
            raise Unreachable(
                "The device that made this ticket is not in reach.",
                hint="Switch it on, or make a new ticket with `meshnode invite` on another issuer.",
            )
        # The joiner cannot be believed about its own link; this node knows it.
        request = msgspec.structs.replace(join, binding=link.handshake_hash)
        return _joined(await issuer.request(request, FORWARD_S))


async def redeem(
    link: JoinLink, ticket: Ticket, identity: Identity, *, name: str, now_ms: int
) -> tuple[bytes, ...]:
    """The joiner's side: prove the secret over a link to a member, and return the chain that admits us.

    Nothing is sent before the other end has shown that it belongs to the ticket's mesh, and what comes back
    is believed only if it leads to the ticket's root. Raises a JoinRefused, WrongMesh, Unreachable or
    NotAllowed.
    """
    verify_chain(link.chain, link.key, ticket.root_key, now_ms)
    join = Join(
        ticket=ticket_id(ticket.secret),
        mac=mac(ticket.secret, link.handshake_hash, identity.key),
        key=identity.key,
        binding=link.handshake_hash,
        issuer=ticket.issuer,
        name=name,
        wall_ms=now_ms,
    )
    chain = _joined(await link.request(join, JOIN_S)).chain
    verify_chain(chain, identity.key, ticket.root_key, now_ms)
    return chain


def _binding(link: JoinLink, join: Join) -> bytes:
    """The joiner's handshake hash: our own on a direct link, else as the forwarding member says."""
    return link.handshake_hash if join.key == link.key else join.binding


def _joined(reply: Message) -> Joined:
    if not isinstance(reply, Joined):
        raise WrongProtocol(f"A request to join was answered with {type(reply).__name__}.")
    return reply
