"""Padding of messages inside streams: one more field in their map, which every reader passes over.

The seal pads what a session sends on a circuit; this pads single messages, as their class wants it, on any link.
"""

from meshwire.errors import LocalWireError

PAD_KEY = 126  # of those that receivers ignore, and after all that messages may grow
_OVERHEAD = 4  # the key, the type, and two bytes of length
_BIN16 = 0xC5
_EMPTY_MAP, _FULL_MAP = 0x80, 0x8F  # that say how many they hold in their first byte
_LENGTH_MAX = 0xFFFF


def padded(message: bytes, bucket: int) -> bytes:
    """An encoded inner message, made a multiple of `bucket` bytes long, at most 65,535; 0 leaves it as it is."""
    if not bucket:
        return message
    missing = -len(message) % bucket
    if 0 < missing < _OVERHEAD:
        missing += bucket
    if not missing:
        return message
    length = missing - _OVERHEAD
    if not _EMPTY_MAP <= message[2] < _FULL_MAP or length > _LENGTH_MAX:
        raise LocalWireError(f"a message cannot be padded by {missing} bytes")
    field = bytes((PAD_KEY, _BIN16)) + length.to_bytes(2, "big") + bytes(length)
    return message[:2] + bytes((message[2] + 1,)) + message[3:] + field
