"""The seal of a session: plaintexts of whole frames in, transport messages out, and back.

An end-to-end session pads what it seals to whole buckets, since lengths tell a relay what a stream says (each
token has its own). The padding is a frame of a type that every receiver skips.
"""

from meshwire.limits import PLAINTEXT_MAX
from meshwire.noise import CipherState

PAD_BUCKET = 128
PAD_TYPE = 127  # in the range that receivers ignore
PAD_OVERHEAD = 6


class Seal:
    """Both directions of a session's encryption.

    `bucket` is what plaintexts are padded to a multiple of, 0 for not at all; with `on` False nothing is
    encrypted, which is for tests that look at what a relay would see then.
    """

    __slots__ = ("_bucket", "_on", "_receive", "_send")

    def __init__(self, ciphers: tuple[CipherState, CipherState], *, bucket: int = 0, on: bool = True) -> None:
        self._send, self._receive = ciphers
        self._bucket = bucket
        self._on = on

    def close(self, plaintext: bytes) -> bytes:
        """The transport message for a plaintext of at most PLAINTEXT_MAX bytes."""
        if self._bucket:
            plaintext += padding(len(plaintext), self._bucket)
        return self._send.encrypt(plaintext) if self._on else plaintext

    def open(self, message: bytes) -> bytes:
        """The plaintext of a transport message; raises RemoteWireError(DECRYPT)."""
        return self._receive.decrypt(message) if self._on else message


def padding(size: int, bucket: int) -> bytes:
    """A frame that brings `size` bytes to a multiple of `bucket`, at most 128; none where there is no room."""
    missing = -size % bucket
    if 0 < missing < PAD_OVERHEAD:
        missing += bucket
    if missing == 0 or size + missing > PLAINTEXT_MAX:
        return b""
    return bytes((0x94, PAD_TYPE, 0, 0, 0xC4, missing - PAD_OVERHEAD)) + bytes(missing - PAD_OVERHEAD)
