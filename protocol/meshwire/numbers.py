"""The fixed numbers and words of the protocol: frame types, flags, reset codes, kinds, bounded fields."""

from enum import IntEnum, IntFlag
from typing import Annotated

import msgspec

from meshwire import limits

U32_MAX = 2**32 - 1
KIND_ASK = "ask"
KIND_CIRCUIT = "circuit"
KIND_BLOB = "blob"
ERRAND = "errand"  # the feature of a link that was opened to ask something, not to be neighbours

U8 = Annotated[int, msgspec.Meta(ge=0, le=255)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=U32_MAX)]
U63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Prefix = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
Mac = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
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
    BLOB_ASK = 80
    BLOB_OFFER = 81
    BLOB_GET = 82


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
