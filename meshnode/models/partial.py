"""A file that comes in chunks, in any order: its bytes, and which were verified, through a kill at any moment.

Only verified chunks are written, and a chunk is marked after it was written. It knows no network.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from meshnode.mesh.chunks import ChunkList
from meshnode.models.place import check_space, writing

READ_BYTES = 1 << 20
HELD, MISSING = b"\1", b"\0"


class Partial:
    """One such file in a pull's place. Everything blocks. Raises DownloadFailed when the disk is full."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "chunks.part"
        self._directory = directory
        self._list = directory / "chunks.list"
        self._marks = directory / "chunks.done"
        self._file = self._marking = -1
        self._promise = ChunkList(0, 1, b"")

    def follow(self, promise: ChunkList) -> list[int]:
        """Make ready for a list; the chunks that are here already, as far as an earlier list says the same."""
        self.close()
        held = self._held_of(promise)
        held_bytes = sum(promise.span(index)[1] for index in held)
        check_space(self._directory, promise.size_bytes - held_bytes)
        marks = bytearray(promise.chunks)
        for index in held:
            marks[index] = 1
        with writing(self._directory):
            _replace(self._list, msgspec.msgpack.encode(tuple(promise)))
            _replace(self._marks, bytes(marks))
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._marking = os.open(self._marks, os.O_RDWR | os.O_CLOEXEC)
            os.ftruncate(self._file, promise.size_bytes)
        self._promise = promise
        return held

    def _held_of(self, promise: ChunkList) -> list[int]:
        with suppress(OSError, msgspec.MsgspecError):
            before = ChunkList(*msgspec.msgpack.decode(self._list.read_bytes(), type=tuple[int, int, bytes]))
            marks = self._marks.read_bytes()
            if before.size_bytes == self.path.stat().st_size and len(marks) == promise.chunks:
                return [
                    index for index in range(promise.chunks) if marks[index] and before.agrees(promise, index)
                ]
        return []

    def put(self, index: int, chunk: bytes) -> bool:
        """Verify a chunk, and keep it if it is right; whether it was."""
        if hashlib.sha256(chunk).digest() != self._promise.hash_of(index):
            return False
        begin, _ = self._promise.span(index)
        with writing(self._directory):
            view = memoryview(chunk)
            while view:
                written = os.pwrite(self._file, view, begin)
                view, begin = view[written:], begin + written
            os.pwrite(self._marking, HELD, index)
        return True

    def recheck(self, index: int) -> bool:
        """Whether a chunk is on the disk as it was written; if not, it is marked as missing."""
        begin, left = self._promise.span(index)
        found = hashlib.sha256()
        while left > 0 and (block := os.pread(self._file, min(READ_BYTES, left), begin)):
            found.update(block)
            begin, left = begin + len(block), left - len(block)
        if found.digest() == self._promise.hash_of(index):
            return True
        os.pwrite(self._marking, MISSING, index)
        return False

    def close(self) -> None:
        """Let go of the files."""
        for file in (self._file, self._marking):
            if file >= 0:
                os.close(file)
        self._file = self._marking = -1


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_bytes(content)
    fresh.replace(path)
