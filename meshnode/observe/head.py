"""The audit log's signed head on the disk: a file with two places, written in turn, so that one is always whole.

It knows bytes, not what they mean. A place holds a check sum, a count that says which is newer, and the head.
"""

import hashlib
import os
from pathlib import Path
from struct import Struct

from meshnode.observe.opened import Opened, translated

FILE = "audit.head"
PLACE_BYTES = 4096  # a page each: what is torn in one leaves the other as it was
PLACES = 2
SUM_BYTES = 8
_FRONT = Struct(">QH")  # the count, and the head's size


class HeadFile:
    """The head's file in a node's home. Every method does IO and raises HomeUnusable."""

    def __init__(self, home: Path) -> None:
        self._file = Opened(home / FILE, os.O_RDWR)
        self._count: int | None = None

    def load(self) -> bytes | None:
        """The newest head that is whole; None without a file, and nothing at all if none is whole."""
        with translated(self._file.path):
            if not self._file.path.is_file():
                return None
            with self._file.path.open("rb") as file:
                found = _newest(file.read(PLACES * PLACE_BYTES))
        self._count, head = found
        return head

    def save(self, head: bytes, *, sync: bool) -> None:
        """Put a head in place of the older one. It outlives this process; the machine only once one is synced."""
        if self._count is None:
            self.load()
        self._count = (self._count or 0) + 1
        raw = _FRONT.pack(self._count, len(head)) + head
        with translated(self._file.path):
            os.pwrite(self._file.descriptor(), _sum(raw) + raw, PLACE_BYTES * (self._count % PLACES))
            if sync:
                os.fsync(self._file.descriptor())


def _newest(raw: bytes) -> tuple[int, bytes]:
    return max(_read(raw[at : at + PLACE_BYTES]) for at in range(0, PLACES * PLACE_BYTES, PLACE_BYTES))


def _read(place: bytes) -> tuple[int, bytes]:
    """The count and the head in a place; 0 and nothing where none is whole."""
    begin = SUM_BYTES + _FRONT.size
    if len(place) < begin:
        return 0, b""
    count, size = _FRONT.unpack(place[SUM_BYTES:begin])
    raw = place[SUM_BYTES : begin + size]
    return (count, raw[_FRONT.size :]) if _sum(raw) == place[:SUM_BYTES] else (0, b"")


def _sum(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()[:SUM_BYTES]
