"""Websocket framing for the one kind of frame that links are made of: a whole binary message (RFC 6455, section 5.2).

It cuts what was read into frames. A whole binary message is taken apart here, which is the hot path of every
link; any other frame is handed on untouched, and complete, to the library that knows them all. Nothing longer
than a transport message is ever gathered.
"""

from collections.abc import Iterator

from wsproto.utilities import ProtocolError

from meshwire.limits import TRANSPORT_MESSAGE_MAX

WHOLE_BINARY = 0x82  # FIN, no extension, opcode 2
MASKED = 0x80
SHORT_MAX, TWO_BYTES, EIGHT_BYTES = 125, 126, 127
MASK_BYTES = 4
STRANDS_FROM = 2048
_XOR = tuple(bytes(value ^ each for value in range(256)) for each in range(256))


def wrap(message: bytes, mask: bytes = b"") -> bytes:
    """The frame of a whole binary message, masked with these four bytes, as clients must, or not at all."""
    size = len(message)
    masked = MASKED if mask else 0
    if size <= SHORT_MAX:
        head = bytes((WHOLE_BINARY, masked | size))
    else:
        head = bytes((WHOLE_BINARY, masked | TWO_BYTES)) + size.to_bytes(2, "big")
    return head + mask + _xor(message, mask) if mask else head + message


class Cutter:
    """Cuts a byte stream into frames. `expects_mask` at a server, whose clients must mask."""

    __slots__ = ("_expects_mask", "_rest")

    def __init__(self, *, expects_mask: bool) -> None:
        self._expects_mask = MASKED if expects_mask else 0
        self._rest = b""

    def cut(self, received: bytes) -> Iterator[tuple[bool, bytes]]:
        """Each complete frame: (True, the message) or (False, the frame as it came). Raises ProtocolError."""
        stream = self._rest + received if self._rest else received
        start, end = 0, len(stream)
        while (body := _body(stream, start)) is not None:
            first, size, mask_at = body
            after = mask_at + (MASK_BYTES if stream[start + 1] & MASKED else 0)
            if after + size > end:
                break
            yield self._frame(stream, start, first, after, size)
            start = after + size
        self._rest = stream[start:]

    def _frame(self, stream: bytes, start: int, first: int, after: int, size: int) -> tuple[bool, bytes]:
        masked = stream[start + 1] & MASKED
        head = after - start - (MASK_BYTES if masked else 0)
        shortest = 2 if size <= SHORT_MAX else 4  # eight bytes of length would be for what is refused anyway
        if first != WHOLE_BINARY or masked != self._expects_mask or head != shortest:
            return False, stream[start : after + size]
        payload = stream[after : after + size]
        return True, _xor(payload, stream[after - MASK_BYTES : after]) if masked else payload


def _body(stream: bytes, start: int) -> tuple[int, int, int] | None:
    """First byte, length of the payload, and where the mask or else the payload begins; None if cut short."""
    if len(stream) - start < 2:
        return None
    size, at = stream[start + 1] & ~MASKED, start + 2
    if size > SHORT_MAX:
        width = 2 if size == TWO_BYTES else 8
        if len(stream) - at < width:
            return None
        size, at = int.from_bytes(stream[at : at + width], "big"), at + width
    if size > TRANSPORT_MESSAGE_MAX:
        raise ProtocolError("a message that is too long")
    return stream[start], size, at


def _xor(message: bytes, mask: bytes) -> bytes:
    """The message with the mask laid over it again and again.

    A short one as one large number; a long one in four strands, each by a table, which is faster from there on.
    """
    size = len(message)
    if size >= STRANDS_FROM:
        laid = bytearray(size)
        for at, each in enumerate(mask):
            laid[at::MASK_BYTES] = message[at::MASK_BYTES].translate(_XOR[each])
        return bytes(laid)
    pattern = (mask * (size // MASK_BYTES + 1))[:size]
    return (int.from_bytes(message, "big") ^ int.from_bytes(pattern, "big")).to_bytes(size, "big")
