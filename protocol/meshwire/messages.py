"""Every message, one frozen struct each, and the fixed numbers. It knows neither encoding nor order.

A field's position is its key on the wire (see `fields`), so fields are appended, never moved or removed.
"""

from enum import IntEnum, IntFlag
from typing import Annotated

import msgspec

from meshwire import limits
from meshwire.errors import CloseCode

U32_MAX = 2**32 - 1
KIND_ASK = "ask"
KIND_CIRCUIT = "circuit"

U8 = Annotated[int, msgspec.Meta(ge=0, le=255)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=U32_MAX)]
U63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Prefix = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
Mac = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Id = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Sentence = Annotated[str, msgspec.Meta(max_length=2048)]
RawRecord = Annotated[bytes, msgspec.Meta(min_length=1, max_length=limits.RECORD_MAX)]
Route = Annotated[tuple[Id, ...], msgspec.Meta(max_length=limits.ROUTE_LINKS)]


class FrameType(IntEnum):
    """The number of each frame and inner message. Those without a struct in the tables are reserved."""

    OPEN = 1
    DATA = 2
    WINDOW = 3
    RESET = 4
    PING = 5
    PONG = 6
    GOAWAY = 7
    JOIN = 8
    CERT = 9
    DHT_PING = 16
    DHT_FIND = 17
    DHT_STORE = 18
    GOSSIP_SYN = 24
    GOSSIP_SYNACK = 25
    GOSSIP_ACK = 26
    RECORD_GET = 27
    PING_REQ = 32
    ACCUSE = 33
    REFUTE = 34
    RELAY_RESERVE = 40
    RELAY_STATUS = 41
    RELAY_CONNECT = 42
    BLOB = 48
    # From here on messages inside DATA.
    PROBE = 64
    ANSWER = 65
    ASK = 66
    CHUNK = 67
    PROGRESS = 68
    END = 69
    REATTACH = 70
    FAIL = 71
    VECTOR = 72


class Flag(IntFlag):
    """Bits of a frame's third element."""

    NONE = 0
    REPLY = 1  # the reply to request number `stream`
    END = 1  # on DATA: the last of the stream
    ERROR = 2  # with REPLY: the body is a Refusal


class ResetCode(IntEnum):
    """Why a stream was reset. Travels hop by hop."""

    CANCEL = 1
    LINK_LOST = 2
    REFUSED = 3
    CREDIT = 4
    DEADLINE = 5
    BAD_ROUTE = 6
    TOO_MANY = 7
    INTERNAL = 8
    UNREACHABLE = 9


class Message(msgspec.Struct, frozen=True):
    """What every message is."""


# --- Streams and the link itself ---


class Open(Message, frozen=True):
    """Opens a stream. `kind` is "ask" or "circuit"; `route` names the far ends of its links in order.

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


class DigestEntry(msgspec.Struct, frozen=True):
    """The newest version known of one owner, by the first 8 bytes of its id."""

    owner: Prefix
    version: U63


class GossipSyn(Message, frozen=True):
    """What the sender has."""

    digest: tuple[DigestEntry, ...]
    wall_ms: U63 = 0


class GossipSynAck(Message, frozen=True):
    """What the receiver has, and what the sender lacks."""

    digest: tuple[DigestEntry, ...] = ()
    deltas: tuple[RawRecord, ...] = ()


class GossipAck(Message, frozen=True):
    """What the receiver lacked."""

    deltas: tuple[RawRecord, ...] = ()


class RecordGet(Message, frozen=True):
    """Asks for one record by owner, type and name."""

    owner: Id
    type: U8
    name: Name = ""


class RecordGot(Message, frozen=True):
    """The record, with the certificates that it takes to believe it."""

    records: tuple[RawRecord, ...] = ()


# --- Inside streams, sealed end to end ---


class Ask(Message, frozen=True):
    """A job, packed by the floor that knows what a job is."""

    job: bytes


class Answer(Message, frozen=True):
    """The worker accepts: what it will run."""

    model: Name
    tier: U8 = 0


class Call(msgspec.Struct, frozen=True):
    """A call of a tool, complete; `arguments` is the JSON text that the model wrote."""

    id: Name
    name: Name
    arguments: str = ""


class Likelihood(msgspec.Struct, frozen=True):
    """The bytes of a token and the natural logarithm of its probability."""

    token: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True):
    """The likelihood of a token that was written, and of the likeliest in its place, best first."""

    token: bytes
    logprob: float
    top: tuple[Likelihood, ...] = ()


class Chunk(Message, frozen=True):
    """Some tokens and what they make; `first_index` counts tokens from the start of the whole answer.

    `logprobs` has one entry for each of `ids`. With `more` the next is a Chunk too, and both count only together.
    """

    first_index: U32
    ids: tuple[U32, ...] = ()
    text: str = ""
    calls: tuple[Call, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    more: bool = False


class Progress(Message, frozen=True):
    """`done` of `total` prompt tokens have been read."""

    done: U32
    total: U32


class End(Message, frozen=True):
    """The clean end of an answer; its absence is truncation."""

    reason: Name
    prompt_tokens: U32 = 0
    completion_tokens: U32 = 0
    cached_tokens: U32 = 0


class Fail(Message, frozen=True):
    """The answer ends with an error."""

    code: Name
    message: Sentence = ""
    hint: Sentence = ""
    retry_after_s: float | None = None
    param: Name = ""


class Vector(Message, frozen=True):
    """The embedding of input number `index`, as little-endian 32-bit floats."""

    index: U32
    values: Annotated[bytes, msgspec.Meta(min_length=4, max_length=limits.VECTOR_MAX)]


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
}
"""Frames without the REPLY flag."""

REPLIES: dict[FrameType, type[Message]] = {
    FrameType.CERT: Joined,
    FrameType.DHT_PING: DhtPong,
    FrameType.DHT_FIND: DhtFound,
    FrameType.DHT_STORE: DhtStored,
    FrameType.GOSSIP_SYNACK: GossipSynAck,
    FrameType.RECORD_GET: RecordGot,
}
"""Frames with the REPLY flag."""

REPLY_OF: dict[type[Message], type[Message]] = {
    Join: Joined,
    DhtPing: DhtPong,
    DhtFind: DhtFound,
    DhtStore: DhtStored,
    GossipSyn: GossipSynAck,
    RecordGet: RecordGot,
}
"""The reply that each request asks for."""

NOTICES_ALONE: frozenset[type[Message]] = frozenset({GossipAck})
"""Messages that ask for no reply."""

INNER: dict[FrameType, type[Message]] = {
    FrameType.ASK: Ask,
    FrameType.ANSWER: Answer,
    FrameType.CHUNK: Chunk,
    FrameType.PROGRESS: Progress,
    FrameType.END: End,
    FrameType.FAIL: Fail,
    FrameType.VECTOR: Vector,
}
"""Messages inside DATA."""

TYPE_OF: dict[type[Message], FrameType] = {
    struct: number for table in (NOTICES, REPLIES, INNER) for number, struct in table.items()
}
"""The number each struct travels under."""
