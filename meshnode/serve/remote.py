"""The remote step: a job sent over a link, direct or a sealed circuit through relays; pieces come back.

A link that is lost is not the end of a run: what has not come yet can be fetched over another one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from meshnode.errors import Busy, DeadlineExceeded, Interrupted, MeshError, Unreachable
from meshnode.net.link import Link, Stream, StreamLost, StreamSilent
from meshnode.serve.emitting import Reader
from meshnode.serve.pacing import manner_of
from meshnode.serve.packing import error_from, pack_job
from meshnode.serve.running import LinkLost, Silent
from meshnode.terms import Emitted, End, Job, Piece, Progress, Vector
from meshwire import inner, messages, numbers
from meshwire.codec import encode_inner
from meshwire.limits import RESPONSE_MAX
from meshwire.numbers import ResetCode
from meshwire.padding import padded

log = structlog.get_logger("meshnode.serve")
AnotherWay = Callable[[Link], Awaitable[Link]]
"""A live link to the same node as this one that shares no relay with it; raises Unreachable."""


@asynccontextmanager
async def run_on_link(
    link: Link, job: Job, another_way: AnotherWay | None = None, stream: Stream | None = None
) -> AsyncIterator[AsyncIterator[Emitted]]:
    """Run a job at the link's other end; leaving the context early cancels it there.

    Raises BadRequest when the job is too large to send, Unreachable when the link is lost; the iterator
    raises whatever error the other end reports. With `another_way` it is a Distant. `stream` is one that is open for
    this job already, on which a place is kept.
    """
    try:
        packed = pack_job(job)
        run = RemoteRun(link, stream or await link.open(opening_of(job)), job, another_way)
    except MeshError:
        if stream is not None:
            stream.reset(ResetCode.CANCEL)
        raise
    try:
        log.info("ask sent", request=job.id, peer=link.name, way=link.remote)
        await _send(run.stream, inner.Ask(packed), manner_of(job.wish.privacy).bucket)
        yield run if another_way is not None else _Plain(run)
    finally:
        run.close()


def request_of(job: Job) -> bytes:
    """What names a job on the wire."""
    return job.id.encode()[:64]


def opening_of(job: Job) -> messages.Open:
    """How a stream for a job is opened."""
    remaining_ms = min(job.deadline_ms, numbers.U32_MAX)
    return messages.Open(numbers.KIND_ASK, request=request_of(job), remaining_ms=remaining_ms)


async def _send(stream: Stream, message: numbers.Message, bucket: int = 0) -> None:
    try:
        await stream.send_encoded(padded(encode_inner(message), bucket), end=True)
    except StreamLost as error:
        raise lost(error) from error


class RemoteRun(AsyncIterator[Emitted]):
    """What the other end emits, numbered without a gap; a stream that just stops is an answer cut short."""

    def __init__(self, link: Link, stream: Stream, job: Job, another_way: AnotherWay | None) -> None:
        self.stream = stream
        self._link = link
        self._job = job
        self._another_way = another_way
        self._reader, self._ledger = Reader(), Ledger(job)
        self._received = 0  # pieces and vectors, as the other end counts them
        self._over = False
        if another_way is not None:
            link.watch(stream)

    async def __anext__(self) -> Emitted:
        """The next item. Raises MeshError; Silent, and goes on."""
        while not self._over:
            emitted = self._reader.read(await self._receive())
            if emitted is None:
                continue
            self._received += not isinstance(emitted, Progress)
            if self._ledger.is_new(emitted):
                self._over = isinstance(emitted, End)
                return emitted
        raise StopAsyncIteration

    async def _receive(self) -> numbers.Message:
        """The next message."""
        while True:
            try:
                message = await self.stream.receive_message()
            except StreamLost as error:
                raise lost(error) from error
            except StreamSilent:
                if self._link.in_doubt():
                    raise Silent(f"{self._link.name} has fallen silent.") from None
                continue  # it was heard again before anybody asked
            if message is None:
                raise Interrupted("The node that served the answer stopped in the middle of it.")
            return message

    async def heard(self) -> None:
        """As `Distant.heard`."""
        await self._link.heard()

    async def reattach(self) -> None:
        """As `Distant.reattach`."""
        if self._another_way is None:
            raise Unreachable("There is no other way.")
        link = await self._another_way(self._link)
        stream = await link.open(opening_of(self._job))
        try:
            await _send(stream, inner.Reattach(request_of(self._job), self._received))
            await _accepted(stream)
        except BaseException:
            stream.reset(ResetCode.LINK_LOST)  # the run is wanted all the same
            raise
        self._leave(ResetCode.LINK_LOST)
        log.info("ask goes on", request=self._job.id, peer=link.name, way=link.remote)
        self._link, self.stream, self._reader = link, stream, Reader()
        link.watch(stream)

    def close(self) -> None:
        """Nobody wants what has not come yet."""
        self._leave(ResetCode.CANCEL)

    def _leave(self, code: ResetCode) -> None:
        self._link.unwatch(self.stream)
        self.stream.reset(code)  # does nothing once both ends are done


class _Plain(AsyncIterator[Emitted]):
    """A run that knows one way only."""

    def __init__(self, run: RemoteRun) -> None:
        self._run = run

    async def __anext__(self) -> Emitted:
        """The next item."""
        return await anext(self._run)


async def _accepted(stream: Stream) -> None:
    """Wait for the other end to take a run up again; raises Unreachable, or what it says instead."""
    try:
        message = await stream.receive_message()
    except StreamLost as error:
        raise lost(error) from error
    if isinstance(message, inner.Fail):
        raise error_from(message)
    if not isinstance(message, inner.Answer):
        raise Unreachable("The node does not go on with the answer.")


class Ledger:
    """What has come of an answer so far; `is_new` raises Interrupted for what cannot follow on it."""

    def __init__(self, job: Job) -> None:
        self._inputs = len(job.inputs)
        self._next_index = len(job.resume)
        self._next_vector = 0
        self._characters = 0

    def is_new(self, emitted: Emitted) -> bool:
        """Take note of what came next; False for tokens that have all come before."""
        match emitted:
            case Piece():
                return self._is_new_piece(emitted)
            case Vector(index):
                if index != self._next_vector or index >= self._inputs:
                    raise Interrupted(f"Vector {self._next_vector} is missing, or was not asked for.")
                self._next_vector += 1
            case End() if self._next_vector != self._inputs:
                raise Interrupted(f"Only {self._next_vector} of {self._inputs} vectors came.")
        return True

    def _is_new_piece(self, piece: Piece) -> bool:
        if piece.ids and piece.first_index + len(piece.ids) <= self._next_index:
            return False
        if piece.first_index != self._next_index:
            raise Interrupted(f"Token {self._next_index} of the answer is missing or came twice.")
        self._next_index += len(piece.ids)
        self._characters += len(piece.text) + sum(len(call.arguments) for call in piece.calls)
        if self._characters > RESPONSE_MAX:
            raise Interrupted(f"The answer is longer than {RESPONSE_MAX} characters.")
        return True


def lost(error: StreamLost) -> MeshError:
    """A broken stream in the mesh's own words."""
    match error.code:
        case ResetCode.DEADLINE:
            return DeadlineExceeded("The request's deadline has passed at the node that served it.")
        case ResetCode.TOO_MANY:
            return Unreachable("The node has as many streams open as it allows.")
        case ResetCode.LINK_LOST:
            return LinkLost("The link to the node that served the answer was lost.")
        case _:
            return Unreachable("The link to the node that served the answer was lost.")


async def send_failure(stream: Stream, error: MeshError) -> None:
    """Tell the asker why its job ends; a stream that is gone needs no telling."""
    with trio.move_on_after(1.0):
        try:
            await stream.send_message(failure(error), end=True)
        except StreamLost:
            return


def failure(error: MeshError) -> inner.Fail:
    """An error as it travels."""
    estimate_s = error.estimate_s if isinstance(error, Busy) else None
    message, hint, param = error.message[:2048], error.hint[:2048], error.param[:256]
    return inner.Fail(error.code, message, hint, error.retry_after_s, param, estimate_s)
