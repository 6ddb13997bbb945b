"""The messages of links: streams, membership, DHT, gossip; one frozen struct each, and the number of every message.

It knows neither encoding nor order. A field's position is its key on the wire (see `fields`), so fields are
appended, never moved or removed. What travels inside streams is in `inner`.
"""

from typing import Annotated

import msgspec

from meshwire import limits
from meshwire.digests import Digest, check_digest
from meshwire.errors import CloseCode
from meshwire.inner import INNER
from meshwire.numbers import (
    U8,
    U32,
    U63,
    FrameType,
    Id,
    Mac,
    Message,
    Name,
    Prefix,
    PublicKey,
    RawRecord,
    ResetCode,
    Route,
    Sentence,
    Signature,
)

# --- Streams and the link itself ---


class Open(Message, frozen=True):
    """Opens a stream. `kind` is "ask", "circuit" or "blob"; `route` names the far ends of its links in order.

    `position` is the receiver's index in the route; `request` identifies the request for seen-caches;
    `remaining_ms` is the time left, 0 for no deadline; `origin` is the NodeId that a circuit starts from.
    """

    kind: Name
    route: Route = ()
    position: U8 = 0
    request: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    remaining_ms: U32 = 0
    origin: Annotated[bytes, msgspec.Meta(max_length=20)] = b""


class Window(Message, frozen=True):
    """Gives the other end `credit` more bytes, on a stream, or on the whole connection (stream 0)."""

    credit: Annotated[int, msgspec.Meta(ge=1, le=limits.CONNECTION_CREDIT)]


class Reset(Message, frozen=True):
    """Ends a stream at once, both ways."""

    code: ResetCode


class Ping(Message, frozen=True):
    """Asks for a Pong with the same token."""

    token: U63


class Pong(Message, frozen=True):
    """Answers a Ping."""

    token: U63


class GoAway(Message, frozen=True):
    """The last frame of a session and why; an unknown code counts as PROTOCOL."""

    code: U8
    reason: Sentence = ""

    @property
    def close_code(self) -> CloseCode:
        """The code as one we know."""
        return CloseCode(self.code) if self.code in CloseCode._value2member_map_ else CloseCode.PROTOCOL


class Refusal(Message, frozen=True):
    """The reply to a request that failed; `code` is a stable word, the rest is for people and retries."""

    code: Name
    message: Sentence = ""
    hint: Sentence = ""
    retry_after_s: float | None = None


# --- Membership ---


class Join(Message, frozen=True):
    """Redeems a ticket; `binding` is the handshake hash of the joiner's link, filled in by who forwards."""

    ticket: Prefix
    mac: Mac
    key: PublicKey
    binding: Annotated[bytes, msgspec.Meta(max_length=64)]
    issuer: PublicKey
    name: Name = ""
    wall_ms: U63 = 0


class Joined(Message, frozen=True):
    """The certificates that make the joiner a member, its own first."""

    chain: tuple[RawRecord, ...]


# --- The DHT ---


class DhtPing(Message, frozen=True):
    """Are you there?"""


class DhtPong(Message, frozen=True):
    """I am."""


class DhtFind(Message, frozen=True):
    """Asks for the nodes closest to `target`, and for what providers stored under it if `providers`."""

    target: Id
    providers: bool = False


class DhtFound(Message, frozen=True):
    """Raw NODE records of the closest, and raw records of the providers."""

    nodes: tuple[RawRecord, ...] = ()
    records: tuple[RawRecord, ...] = ()


class DhtStore(Message, frozen=True):
    """Asks to keep the sender's own record under `key`."""

    key: Id
    record: RawRecord


class DhtStored(Message, frozen=True):
    """It is kept."""


# --- Gossip ---


class GossipSyn(Message, frozen=True):
    """What the sender has: a digest, see `meshwire.digests`."""

    digest: Digest = b""
    wall_ms: U63 = 0

    def __post_init__(self) -> None:
        """Refuse a digest that ends within an entry."""
        check_digest(self.digest)


class GossipSynAck(Message, frozen=True):
    """What the receiver has, as a digest, and what the sender lacks."""

    digest: Digest = b""
    deltas: tuple[RawRecord, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a digest that ends within an entry."""
        check_digest(self.digest)


class GossipAck(Message, frozen=True):
    """What the receiver lacked, or news for it.

    Of an owner that the digest `follows` names, the records come after that version: a receiver with less of it still
    lacks what lies between.
    """

    deltas: tuple[RawRecord, ...] = ()
    follows: Digest = b""

    def __post_init__(self) -> None:
        """Refuse a digest that ends within an entry."""
        check_digest(self.follows)


class RecordGet(Message, frozen=True):
    """Asks for one record by owner, type and name."""

    owner: Id
    type: U8
    name: Name = ""


class RecordGot(Message, frozen=True):
    """The record, with the certificates that it takes to believe it."""

    records: tuple[RawRecord, ...] = ()


# --- Liveness ---


class PingReq(Message, frozen=True):
    """Asks whether the receiver still hears a node that the sender no longer hears."""

    target: Id


class Pinged(Message, frozen=True):
    """Whether it does."""

    alive: bool


class Accuse(Message, frozen=True):
    """A watcher's word that it no longer hears `accused`, whose last vitals have this `seq`; see `accusing`."""

    accused: Id
    seq: U63
    accuser: PublicKey
    signature: Signature


class Refute(Message, frozen=True):
    """The accused node's own word: its VITALS, signed after those that the accusation names."""

    record: RawRecord


# --- Relays ---


class Reserve(Message, frozen=True):
    """Asks the receiver to carry circuits to the sender, which cannot be dialled; asked again, it renews that."""


class Reserved(Message, frozen=True):
    """It does so for `lease_s` seconds from now."""

    lease_s: U32


NOTICES: dict[FrameType, type[Message]] = {
    FrameType.OPEN: Open,
    FrameType.WINDOW: Window,
    FrameType.RESET: Reset,
    FrameType.PING: Ping,
    FrameType.PONG: Pong,
    FrameType.GOAWAY: GoAway,
    FrameType.JOIN: Join,
    FrameType.DHT_PING: DhtPing,
    FrameType.DHT_FIND: DhtFind,
    FrameType.DHT_STORE: DhtStore,
    FrameType.GOSSIP_SYN: GossipSyn,
    FrameType.GOSSIP_ACK: GossipAck,
    FrameType.RECORD_GET: RecordGet,
    FrameType.PING_REQ: PingReq,
    FrameType.ACCUSE: Accuse,
    FrameType.REFUTE: Refute,
    FrameType.RELAY_RESERVE: Reserve,
}
"""Frames without the REPLY flag."""

REPLIES: dict[FrameType, type[Message]] = {
    FrameType.CERT: Joined,
    FrameType.DHT_PING: DhtPong,
    FrameType.DHT_FIND: DhtFound,
    FrameType.DHT_STORE: DhtStored,
    FrameType.GOSSIP_SYNACK: GossipSynAck,
    FrameType.RECORD_GET: RecordGot,
    FrameType.PING_REQ: Pinged,
    FrameType.RELAY_STATUS: Reserved,
}
"""Frames with the REPLY flag."""

REPLY_OF: dict[type[Message], type[Message]] = {
    Join: Joined,
    DhtPing: DhtPong,
    DhtFind: DhtFound,
    DhtStore: DhtStored,
    GossipSyn: GossipSynAck,
    RecordGet: RecordGot,
    PingReq: Pinged,
    Reserve: Reserved,
}
"""The reply that each request asks for."""

NOTICES_ALONE: frozenset[type[Message]] = frozenset({GossipAck, Accuse, Refute})
"""Messages that ask for no reply."""

TYPE_OF: dict[type[Message], FrameType] = {
    struct: number for table in (NOTICES, REPLIES, INNER) for number, struct in table.items()
}
"""The number each struct travels under."""
