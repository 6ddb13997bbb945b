"""Chunks of weights over a link: one kind of stream, with an end that asks and an end that gives.

Who may ask, what there is and where it lies is the library's, which is handed in; what a chunk should be is the
asker's. Nothing here decides more than when a stream has been silent for too long.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Protocol, TypeVar

import structlog
import trio

from meshnode.errors import BadRequest, Busy, MeshError, Unreachable, from_code
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.net.pace import Pace
from meshwire import inner, limits
from meshwire.messages import Open
from meshwire.numbers import KIND_BLOB, U32_MAX, Message, ResetCode

log = structlog.get_logger("meshnode.net.blobs")
READ_BYTES = 1 << 20
T = TypeVar("T")
Tell = Callable[[int, int], Awaitable[None]]


class Shelf(Protocol):
    """One file, open."""

    @property
    def size_bytes(self) -> int:
        """Its size."""
        ...

    @property
    def chunk_bytes(self) -> int:
        """The size of all its chunks but the last."""
        ...

    @property
    def hashes(self) -> bytes:
        """The SHA-256 of each chunk, in a row."""
        ...

    async def read(self, begin: int, count: int) -> bytes:
        """Bytes of it; raises MeshError."""
        ...


class Library(Protocol):
    """What a node has to give."""

    def open(self, key: bytes, digest: bytes, tell: Tell) -> AbstractAsyncContextManager[Shelf]:
        """The file with this digest for the node with this key; raises NotAllowed or ModelNotFound.

        `tell(done, total)` is awaited now and then while its chunks are still being worked out.
        """
        ...


# --- The end that gives ---


class BlobServer:
    """Gives chunks to whoever the library allows, to so many at once."""

    def __init__(self, library: Library, pace: Pace) -> None:
        self._library = library
        self._pace = pace
        self._streams: Counter[bytes] = Counter()

    async def serve(self, link: Link, stream: Stream, _opening: Open) -> None:
        """One stream, until the other end is done with it, or silent for BLOB_IDLE_S."""
        try:
            with self._place(link.key):
                await self._give(link, stream)
        except MeshError as error:
            log.info("weights not given", peer=link.name, code=error.code)
            await _fail(stream, error)

    @contextmanager
    def _place(self, key: bytes) -> Iterator[None]:
        if self._streams[key] >= limits.BLOB_STREAMS_PER_KEY or self._streams.total() >= limits.BLOB_STREAMS:
            raise Busy("As many weights are being fetched here as this node allows.", retry_after_s=2.0)
        self._streams[key] += 1
        try:
            yield
        finally:
            self._streams[key] -= 1
            if not self._streams[key]:
                del self._streams[key]

    async def _give(self, link: Link, stream: Stream) -> None:
        asked = await _next(stream)
        if not isinstance(asked, inner.BlobAsk):
            raise BadRequest("A stream for weights begins with which file is meant.")

        async def tell(done: int, total: int) -> None:
            await stream.send_message(inner.Progress(min(done, U32_MAX), min(total, U32_MAX)))

        async with self._library.open(link.key, asked.digest, tell) as shelf:
            hashes = b"" if asked.brief else shelf.hashes
            await stream.send_message(inner.BlobOffer(shelf.size_bytes, shelf.chunk_bytes, hashes))
            while isinstance(wanted := await _next(stream), inner.BlobGet):
                await self._send(stream, shelf, wanted.index)
        await stream.aclose()

    async def _send(self, stream: Stream, shelf: Shelf, index: int) -> None:
        """One chunk, in small payloads. What fails in the middle can only be told by a reset."""
        begin = index * shelf.chunk_bytes
        end = min(begin + shelf.chunk_bytes, shelf.size_bytes)
        if begin >= end:
            stream.reset(ResetCode.INTERNAL)
            raise StreamLost(ResetCode.INTERNAL)
        try:
            for at in range(begin, end, READ_BYTES):
                block = memoryview(await shelf.read(at, min(READ_BYTES, end - at)))
                for start in range(0, len(block), limits.BLOB_PAYLOAD):
                    payload = bytes(block[start : start + limits.BLOB_PAYLOAD])
                    await self._pace.take(len(payload))
                    await stream.send(payload)
        except MeshError:
            stream.reset(ResetCode.INTERNAL)
            raise


async def _next(stream: Stream) -> Message | None:
    """The other end's next wish; None if it has none, or makes up its mind for too long."""
    with trio.move_on_after(limits.BLOB_IDLE_S):
        return await stream.receive_message()
    return None


async def _fail(stream: Stream, error: MeshError) -> None:
    fail = inner.Fail(error.code, error.message[:2048], error.hint[:2048], error.retry_after_s)
    with trio.move_on_after(1.0):
        try:
            await stream.send_message(fail, end=True)
        except StreamLost:
            return


# --- The end that asks ---


class BlobLane:
    """One stream to a node that has a file. One task uses it. What breaks it is raised as a MeshError."""

    def __init__(self, stream: Stream, peer: str, pace: Pace) -> None:
        self._stream = stream
        self._peer = peer
        self._pace = pace

    async def ask(self, digest: bytes, *, brief: bool = False) -> inner.BlobOffer:
        """What the other end promises of the file; without hashes if `brief`. Raises MeshError, as it says."""
        try:
            await self._stream.send_message(inner.BlobAsk(digest, brief))
            while True:
                match await self._within(self._stream.receive_message):
                    case inner.Progress():
                        continue
                    case inner.BlobOffer() as offer:
                        return offer
                    case inner.Fail(code, message, hint, retry_after_s):
                        raise from_code(code, message, hint=hint, retry_after_s=retry_after_s)
                    case _:
                        raise Unreachable(f"{self._peer} does not say what it has.")
        except StreamLost as error:
            raise self._lost(error) from error

    async def get(self, index: int, size_bytes: int) -> bytes:
        """One chunk of this size, as it comes. Raises Unreachable."""
        parts: list[bytes] = []
        left = size_bytes
        try:
            await self._stream.send_message(inner.BlobGet(index))
            while left > 0:
                payload = await self._within(self._stream.receive)
                if payload is None:
                    raise Unreachable(f"{self._peer} stopped in the middle of a chunk.")
                await self._pace.take(len(payload))
                parts.append(payload)
                left -= len(payload)
        except StreamLost as error:
            raise self._lost(error) from error
        if left < 0:
            raise Unreachable(f"{self._peer} sent more than it was asked for.")
        return b"".join(parts)

    def close(self) -> None:
        """Give the stream up, whatever is still on its way."""
        self._stream.reset(ResetCode.CANCEL)

    async def _within(self, receive: Callable[[], Awaitable[T]]) -> T:
        with trio.move_on_after(limits.BLOB_STALL_S):
            return await receive()
        raise Unreachable(f"{self._peer} has sent nothing for {limits.BLOB_STALL_S:g} s.")

    def _lost(self, error: StreamLost) -> MeshError:
        if error.code is ResetCode.REFUSED:
            return BadRequest(f"{self._peer} runs a version that gives no weights.")
        return Unreachable(f"The stream from {self._peer} broke off: {error.code.name.lower()}.")


async def open_lane(link: Link, peer: str, pace: Pace) -> BlobLane:
    """A stream for weights to the link's other end; raises Unreachable or Busy."""
    return BlobLane(await link.open(Open(KIND_BLOB)), peer, pace)
