"""What this node gives of its model files, chunk by chunk. Who may have it is handed in; it knows no network.

The hashes of a file's chunks are worked out once, when somebody first asks, and kept beside the store.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from meshnode.errors import HomeUnusable, ModelFileInvalid, ModelNotFound
from meshnode.mesh.chunks import HASH_BYTES, ChunkList, chunk_bytes_for
from meshnode.models.place import writing
from meshnode.models.store import ModelStore, StoredModel
from meshnode.seams import Blocking

TELL_EVERY_S = 2.0
READ_BYTES = 1 << 20
SUM_BYTES = 32


class OpenFile:
    """A file of the store, to be read by chunks."""

    def __init__(self, file: int, promise: ChunkList, blocking: Blocking) -> None:
        self._file = file
        self._blocking = blocking
        self.size_bytes, self.chunk_bytes, self.hashes = promise

    async def read(self, begin: int, count: int) -> bytes:
        """So many bytes from there; raises ModelFileInvalid if they are gone, or cannot be read."""
        return await self._blocking(lambda: self._read(begin, count))

    def _read(self, begin: int, count: int) -> bytes:
        try:
            found = os.pread(self._file, count, begin)
        except OSError as error:
            raise ModelFileInvalid(f"The model file cannot be read: {error.strerror}.") from error
        if len(found) != count:
            raise ModelFileInvalid("The model file is shorter than it was.")
        return found


class Library:
    """The models of one home, for whoever `check(key)` lets have them; it raises NotAllowed."""

    def __init__(self, store: ModelStore, blocking: Blocking, check: Callable[[bytes], None]) -> None:
        self._store = store
        self._blocking = blocking
        self._check = check
        self._working: dict[bytes, _Working] = {}

    @asynccontextmanager
    async def open(
        self, key: bytes, digest: bytes, tell: Callable[[int, int], Awaitable[None]]
    ) -> AsyncIterator[OpenFile]:
        """The file with this digest for the node with this key; raises NotAllowed, ModelNotFound.

        `tell(done, total)` hears, in chunks, how far it is with a file that nobody asked for before.
        """
        self._check(key)
        model = await self._blocking(lambda: self._store.find(f"sha256:{digest.hex()}"))
        if model is None:
            raise ModelNotFound("This node does not have that model as a file of its own.")
        promise = await self._promise(model, tell)
        file = await self._blocking(lambda: _opened(model.path))
        try:
            yield OpenFile(file, promise, self._blocking)
        finally:
            os.close(file)

    async def _promise(self, model: StoredModel, tell: Callable[[int, int], Awaitable[None]]) -> ChunkList:
        kept = self._store.chunk_list_file(model.digest)
        found = await self._blocking(lambda: recall_list(kept, model.size_bytes))
        return found or await self._work_out(model, tell)

    async def _work_out(self, model: StoredModel, tell: Callable[[int, int], Awaitable[None]]) -> ChunkList:
        """One of those who ask works it out, and another goes on if that one leaves; all are told how far it is."""
        working = self._working.setdefault(model.digest, _Working(model, self._blocking))
        working.waiting += 1
        try:
            while not working.done:
                with trio.move_on_after(TELL_EVERY_S):
                    async with working.lock:
                        await working.run()
                if not working.done:
                    await tell(len(working.hashes) // HASH_BYTES, working.count)
            kept = self._store.chunk_list_file(model.digest)
            with suppress(HomeUnusable):  # then the next one has to wait for it again
                await self._blocking(lambda: keep_list(kept, working.promise))
            return working.promise
        finally:
            working.waiting -= 1
            if not working.waiting:
                del self._working[model.digest]


class _Working:
    """The hashes of a file's chunks, as far as they are worked out."""

    def __init__(self, model: StoredModel, blocking: Blocking) -> None:
        self.lock = trio.Lock()
        self.hashes = bytearray()
        self.waiting = 0
        self._model = model
        self._blocking = blocking
        self._chunk_bytes = chunk_bytes_for(model.size_bytes)
        self.count = -(-model.size_bytes // self._chunk_bytes)

    @property
    def done(self) -> bool:
        return len(self.hashes) == HASH_BYTES * self.count

    @property
    def promise(self) -> ChunkList:
        return ChunkList(self._model.size_bytes, self._chunk_bytes, bytes(self.hashes))

    async def run(self) -> None:
        """Go on to the end, or until cancelled: between two chunks, so that no work is lost."""
        while not self.done:
            begin = len(self.hashes) // HASH_BYTES * self._chunk_bytes
            with trio.CancelScope(shield=True):
                self.hashes += await self._blocking(lambda begin=begin: self._hash(begin))  # type: ignore[misc]
            await trio.lowlevel.checkpoint_if_cancelled()

    def _hash(self, begin: int) -> bytes:
        found, left = hashlib.sha256(), min(self._chunk_bytes, self._model.size_bytes - begin)
        file = _opened(self._model.path)
        try:
            while left > 0:
                block = os.pread(file, min(READ_BYTES, left), begin)
                if not block:
                    raise ModelFileInvalid("The model file is shorter than it was.")
                found.update(block)
                begin, left = begin + len(block), left - len(block)
        finally:
            os.close(file)
        return found.digest()


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ModelNotFound("The file of that model is gone.") from error


def keep_list(path: Path, promise: ChunkList) -> None:
    """Keep a file's chunk list, with a sum of its own. Raises HomeUnusable."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(hashlib.sha256(promise.hashes).digest() + promise.hashes)
        part.replace(path)


def recall_list(path: Path, size_bytes: int) -> ChunkList | None:
    """The list that was kept for a file of this size, if it is whole."""
    with suppress(OSError):
        content = path.read_bytes()
        promise = ChunkList(size_bytes, chunk_bytes_for(size_bytes), content[SUM_BYTES:])
        whole = hashlib.sha256(promise.hashes).digest() == content[:SUM_BYTES]
        return promise if whole and promise.sound else None
    return None
