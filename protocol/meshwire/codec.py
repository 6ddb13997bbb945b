"""msgpack <-> messages, strict and bounded. It knows the shape of frames, not when each may be sent.

A frame is `[type, stream, flags, body]`. Structure is counted before anything is unpacked, because an empty
map is one byte on the wire and 64 in memory. DATA frames, the hot path, are read by hand.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgpack

from meshwire import limits
from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.fields import pack_fields, unpack_fields
from meshwire.inner import INNER
from meshwire.messages import NOTICES, REPLIES, TYPE_OF, Refusal
from meshwire.numbers import U32_MAX, Flag, FrameType, Message

DATA_PAYLOAD_MAX = limits.DATA_FRAME_MAX - 64  # leaves room for the frame's header and for its credit
PART_MAX = DATA_PAYLOAD_MAX - 1
JOINED_MAX = limits.PROMPT_MAX + 64 * 1024
LAST, MORE = b"\0", b"\1"

_FRAME_ELEMENTS = 4
_FIXARRAY_4 = 0x94
_BIN8, _BIN16, _BIN32 = 0xC4, 0xC5, 0xC6
_UINT_SIZES = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_REPLY, _REPLY_ERROR = int(Flag.REPLY), int(Flag.REPLY | Flag.ERROR)
_DATA = int(FrameType.DATA)
_NOTICES: dict[int, type[Message]] = {int(number): struct for number, struct in NOTICES.items()}
_REPLIES: dict[int, type[Message]] = {int(number): struct for number, struct in REPLIES.items()}
_INNER: dict[int, type[Message]] = {int(number): struct for number, struct in INNER.items()}

_pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack


AnyMessage = TypeVar("AnyMessage", bound=Message)


class Frame(NamedTuple):
    """One frame as read. `body` is bytes for DATA, a message otherwise, None for a type to be ignored."""

    type: int
    stream: int
    flags: int
    body: Any


# --- Writing ---


def encode_data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    """A DATA frame; raises LocalWireError if the payload is longer than DATA_PAYLOAD_MAX."""
    if len(payload) > DATA_PAYLOAD_MAX:
        raise LocalWireError(f"a DATA payload has at most {DATA_PAYLOAD_MAX} bytes, not {len(payload)}")
    return _pack((_DATA, stream, 1 if end else 0, payload))


def encode_frame(message: Message, stream: int = 0, flags: int = 0) -> bytes:
    """A control frame; raises LocalWireError if it is longer than CONTROL_FRAME_MAX."""
    return encode_frame_as(TYPE_OF[type(message)], message, stream, flags)


def encode_frame_as(number: int, message: Message, stream: int, flags: int) -> bytes:
    """A control frame under a given type, for a Refusal, which has the type of what it refuses."""
    frame = _pack((int(number), stream, int(flags), pack_fields(message)))
    if len(frame) > limits.CONTROL_FRAME_MAX:
        raise LocalWireError(f"{type(message).__name__} makes a frame of {len(frame)} bytes")
    return frame


def batches(frames: list[bytes]) -> list[bytes]:
    """The frames, in order, joined into as few plaintexts of at most PLAINTEXT_MAX as they fit in."""
    full: list[bytes] = []
    batch: list[bytes] = []
    size = 0
    for frame in frames:
        if size + len(frame) > limits.PLAINTEXT_MAX:
            full.append(b"".join(batch))
            batch, size = [], 0
        batch.append(frame)
        size += len(frame)
    full.append(b"".join(batch))
    return full


# --- Reading ---


def decode_frames(message: bytes) -> list[Frame]:
    """All frames of one transport message; raises RemoteWireError for anything malformed or out of bounds."""
    frames: list[Frame] = []
    position, size = 0, len(message)
    while position < size:
        is_data = message[position] == _FIXARRAY_4 and position + 1 < size and message[position + 1] == _DATA
        frame, position = (_read_data if is_data else _read_control)(message, position)
        frames.append(frame)
    return frames


def _read_data(message: bytes, start: int) -> tuple[Frame, int]:
    """A DATA frame, by hand: the scan and msgpack together would cost five times as much."""
    try:
        stream, position = _read_uint(message, start + 2)
        flags, position = _read_uint(message, position)
        marker = message[position]
        width = {_BIN8: 1, _BIN16: 2, _BIN32: 4}.get(marker, 0)
        if not width:
            raise RemoteWireError("the body of DATA is not bytes")
        body = position + 1 + width
        end = body + int.from_bytes(message[position + 1 : body], "big")
    except IndexError:
        raise RemoteWireError("a frame is cut short") from None
    if end > len(message) or body > len(message):
        raise RemoteWireError("a frame is cut short")
    if end - start > limits.DATA_FRAME_MAX:
        raise RemoteWireError("a DATA frame is too long", CloseCode.TOO_LARGE)
    if stream > U32_MAX or flags > 1:
        raise RemoteWireError("a DATA frame with an impossible stream or flags")
    return Frame(_DATA, stream, flags, message[body:end]), end


def _read_uint(message: bytes, position: int) -> tuple[int, int]:
    """An unsigned msgpack integer and where the next thing starts; IndexError when cut short."""
    first = message[position]
    if first < 0x80:
        return first, position + 1
    size = _UINT_SIZES.get(first)
    if size is None:
        raise RemoteWireError("not an unsigned integer where one must be")
    end = position + 1 + size
    if end > len(message):
        raise RemoteWireError("a frame is cut short")
    return int.from_bytes(message[position + 1 : end], "big"), end


def _read_control(message: bytes, start: int) -> tuple[Frame, int]:
    end = scan(message, start)
    if end - start > limits.CONTROL_FRAME_MAX:
        raise RemoteWireError("a control frame is too long", CloseCode.TOO_LARGE)
    frame = _unpack(message[start:end])
    if type(frame) is not list or len(frame) != _FRAME_ELEMENTS:
        raise RemoteWireError("a frame is not an array of four")
    number, stream, flags, body = frame
    if not (_is_u32(number) and _is_u32(stream) and _is_u32(flags)):
        raise RemoteWireError("a frame's type, stream and flags are unsigned integers")
    return Frame(number, stream, flags, _body(number, flags, body)), end


def _is_u32(item: Any) -> bool:
    return type(item) is int and 0 <= item <= U32_MAX


def _body(number: int, flags: int, body: Any) -> Message | None:
    if number >= limits.KNOWN_KEYS:
        return None
    if flags == 0:
        cls = _NOTICES.get(number)
    elif flags == _REPLY:
        cls = _REPLIES.get(number)
    else:
        cls = Refusal if flags == _REPLY_ERROR else None
    if cls is None:
        raise RemoteWireError(f"a frame of unknown type {number} with flags {flags}")
    return unpack_fields(cls, body)


def pack_map(message: Message) -> bytes:
    """A message as a bare msgpack map, for a handshake's payload."""
    return _pack(pack_fields(message))


def unpack_map(cls: type[AnyMessage], raw: bytes) -> AnyMessage:
    """The message that a bare msgpack map describes; raises RemoteWireError."""
    if scan(raw, 0) != len(raw):
        raise RemoteWireError("something follows a map")
    return unpack_fields(cls, _unpack(raw))


def _unpack(raw: bytes) -> Any:
    """The object in `raw`, whose structure `scan` has already bounded."""
    try:
        return msgpack.unpackb(
            raw,
            raw=False,
            use_list=True,
            strict_map_key=False,
            object_pairs_hook=_strict_map,
            ext_hook=_no_extensions,
            max_str_len=len(raw),
            max_bin_len=len(raw),
            max_array_len=limits.ARRAY_MAX,
            max_map_len=limits.MAP_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RemoteWireError(f"not msgpack: {error}") from error


def _strict_map(pairs: list[tuple[Any, Any]]) -> dict[int, Any]:
    """A map whose keys are integers in ascending order, so that none comes twice."""
    last = -1
    for key, _ in pairs:
        if type(key) is not int or key <= last:
            raise RemoteWireError("a map's keys are integers in ascending order")
        last = key
    return dict(pairs)


def _no_extensions(code: int, _: bytes) -> Any:
    raise RemoteWireError(f"msgpack extension type {code}")


# --- Counting before building ---

_CONTAINER, _SIZED, _REFUSED = 0, -1, -2


def _sizes() -> tuple[int, ...]:
    """For each first byte: the size of the whole item, or what to do to learn it."""
    sizes = [1] * 256
    for length in range(32):
        sizes[0xA0 + length] = 1 + length  # short text
    for first in range(0x80, 0xA0):
        sizes[first] = _CONTAINER
    for first in (0xC4, 0xC5, 0xC6, 0xD9, 0xDA, 0xDB):
        sizes[first] = _SIZED
    for first in (0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8):
        sizes[first] = _REFUSED  # the reserved byte and the extension types
    sizes[0xCA], sizes[0xCB] = 5, 9
    for first, width in zip((0xCC, 0xCD, 0xCE, 0xCF, 0xD0, 0xD1, 0xD2, 0xD3), (2, 3, 5, 9) * 2, strict=True):
        sizes[first] = width
    for first in (0xDC, 0xDD, 0xDE, 0xDF):
        sizes[first] = _CONTAINER
    return tuple(sizes)


_SIZES = _sizes()
_WIDTH_OF_LENGTH = {0xC4: 1, 0xD9: 1, 0xC5: 2, 0xDA: 2, 0xC6: 4, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


def scan(message: bytes, start: int) -> int:
    """Where the msgpack item that begins at `start` ends, having checked depth and counts and built nothing.

    One step an element; the contents of text and bytes are skipped. Raises RemoteWireError.
    """
    position, left, above = start, 1, []
    try:
        while True:
            while left:
                left -= 1
                first = message[position]
                size = _SIZES[first]
                if size > 0:
                    position += size
                elif size == _SIZED:
                    length, position = _length(message, position, first)
                    position += length
                elif size == _CONTAINER:
                    children, position = _children(message, position, first)
                    above.append(left)
                    left = children
                    if len(above) > limits.DEPTH_MAX:
                        raise RemoteWireError("msgpack nested too deep", CloseCode.TOO_LARGE)
                else:
                    raise RemoteWireError("a msgpack type that is not used")
            if not above:
                break
            left = above.pop()
    except IndexError:
        raise RemoteWireError("a frame is cut short") from None
    if position > len(message):
        raise RemoteWireError("a frame is cut short")
    return position


def _length(message: bytes, position: int, first: int) -> tuple[int, int]:
    """A length written in the bytes after `first`, and the position after it."""
    end = position + 1 + _WIDTH_OF_LENGTH[first]
    return int.from_bytes(message[position + 1 : end], "big"), end


def _children(message: bytes, position: int, first: int) -> tuple[int, int]:
    """How many items the container that begins here holds, and where the first of them is."""
    if first < 0xA0:
        count, position = first & 0x0F, position + 1
    else:
        count, position = _length(message, position, first)
    is_map = first < 0x90 or first >= 0xDE
    if count > (limits.MAP_MAX if is_map else limits.ARRAY_MAX):
        raise RemoteWireError("a msgpack container holds too much", CloseCode.TOO_LARGE)
    return (2 * count if is_map else count), position


# --- Messages inside streams ---


def encode_inner(message: Message) -> bytes:
    """A message for the inside of a stream: `[type, map]`, of any length up to JOINED_MAX."""
    packed = _pack((int(TYPE_OF[type(message)]), pack_fields(message)))
    if len(packed) > JOINED_MAX:
        raise LocalWireError(f"{type(message).__name__} is {len(packed)} bytes long")
    return packed


def decode_inner(raw: bytes) -> Message:
    """The message inside a stream; raises RemoteWireError."""
    if len(raw) > JOINED_MAX:
        raise RemoteWireError("an inner message is too long", CloseCode.TOO_LARGE)
    if scan(raw, 0) != len(raw):
        raise RemoteWireError("something follows an inner message")
    packed = _unpack(raw)
    if type(packed) is not list or len(packed) != 2 or type(packed[0]) is not int:
        raise RemoteWireError("an inner message is a number and a map")
    cls = _INNER.get(packed[0])
    if cls is None:
        raise RemoteWireError(f"unknown inner message {packed[0]}")
    return unpack_fields(cls, packed[1])


def split(message: bytes) -> list[bytes]:
    """The message as payloads for DATA frames, each with a first byte that says whether more follow."""
    if len(message) > JOINED_MAX:
        raise LocalWireError(f"a message of {len(message)} bytes is too long for a stream")
    last = max(0, (len(message) - 1) // PART_MAX)
    parts = (message[n * PART_MAX : (n + 1) * PART_MAX] for n in range(last + 1))
    return [(LAST if n == last else MORE) + part for n, part in enumerate(parts)]


class Joiner:
    """Puts the parts of `split` together again, up to a bound."""

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int = JOINED_MAX) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def waiting(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._parts)

    def add(self, payload: bytes) -> bytes | None:
        """Take one part; the whole message if it was the last one. Raises RemoteWireError."""
        marker, part = payload[:1], payload[1:]
        if marker not in (LAST, MORE) or (marker == MORE and not part):
            raise RemoteWireError("a part of a message has no valid first byte, or is empty")
        self._size += len(part)
        if self._size > self._limit:
            raise RemoteWireError("a message in parts is too long", CloseCode.TOO_LARGE)
        self._parts.append(part)
        if marker == MORE:
            return None
        whole = b"".join(self._parts)
        self._parts, self._size = [], 0
        return whole
