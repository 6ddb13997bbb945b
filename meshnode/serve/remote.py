"""The remote step: a job sent over a link, direct or a sealed circuit through relays; pieces come back."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from meshnode.errors import DeadlineExceeded, Interrupted, MeshError, Unreachable
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.serve.emitting import Reader
from meshnode.serve.packing import pack_job
from meshnode.terms import Emitted, End, Job, Piece, Vector
from meshwire import inner, messages, numbers
from meshwire.limits import RESPONSE_MAX
from meshwire.numbers import ResetCode


@asynccontextmanager
async def run_on_link(link: Link, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
    """Run a job at the link's other end; leaving the context early cancels it there.

    Raises BadRequest when the job is too large to send, Unreachable when the link is lost; the iterator
    raises whatever error the other end reports.
    """
    packed = pack_job(job)
    stream = await _open(link, job)
    try:
        await _send_ask(stream, packed)
        async with aclosing(_emitted(stream, job)) as emitted:
            yield emitted
    finally:
        stream.reset(ResetCode.CANCEL)  # does nothing once both ends are done


async def _open(link: Link, job: Job) -> Stream:
    opening = messages.Open(
        numbers.KIND_ASK, request=job.id.encode()[:64], remaining_ms=min(job.deadline_ms, numbers.U32_MAX)
    )
    return await link.open(opening)


async def _send_ask(stream: Stream, packed: bytes) -> None:
    try:
        await stream.send_message(inner.Ask(packed), end=True)
    except StreamLost as error:
        raise lost(error) from error


async def _emitted(stream: Stream, job: Job) -> AsyncGenerator[Emitted, None]:
    """What the other end emits, numbered without a gap; a stream that just stops is an answer cut short."""
    reader, ledger = Reader(), Ledger(job)
    while True:
        try:
            message = await stream.receive_message()
        except StreamLost as error:
            raise lost(error) from error
        if message is None:
            raise Interrupted("The node that served the answer stopped in the middle of it.")
        emitted = reader.read(message)
        if emitted is None:
            continue
        ledger.note(emitted)
        yield emitted
        if isinstance(emitted, End):
            return


class Ledger:
    """What has come of an answer so far; `note` raises Interrupted for what cannot follow on it."""

    def __init__(self, job: Job) -> None:
        self._inputs = len(job.inputs)
        self._next_index = len(job.resume)
        self._next_vector = 0
        self._characters = 0

    def note(self, emitted: Emitted) -> None:
        """Take note of what came next."""
        match emitted:
            case Piece():
                self._note_piece(emitted)
            case Vector(index):
                if index != self._next_vector or index >= self._inputs:
                    raise Interrupted(f"Vector {self._next_vector} is missing, or was not asked for.")
                self._next_vector += 1
            case End() if self._next_vector != self._inputs:
                raise Interrupted(f"Only {self._next_vector} of {self._inputs} vectors came.")

    def _note_piece(self, piece: Piece) -> None:
        if piece.first_index != self._next_index:
            raise Interrupted(f"Token {self._next_index} of the answer is missing or came twice.")
        self._next_index += len(piece.ids)
        self._characters += len(piece.text) + sum(len(call.arguments) for call in piece.calls)
        if self._characters > RESPONSE_MAX:
            raise Interrupted(f"The answer is longer than {RESPONSE_MAX} characters.")


def lost(error: StreamLost) -> MeshError:
    """A broken stream in the mesh's own words."""
    match error.code:
        case ResetCode.DEADLINE:
            return DeadlineExceeded("The request's deadline has passed at the node that served it.")
        case ResetCode.TOO_MANY:
            return Unreachable("The node has as many streams open as it allows.")
        case _:
            return Unreachable("The link to the node that served the answer was lost.")


async def send_failure(stream: Stream, error: MeshError) -> None:
    """Tell the asker why its job ends; a stream that is gone needs no telling."""
    fail = inner.Fail(
        error.code, error.message[:2048], error.hint[:2048], error.retry_after_s, error.param[:256]
    )
    with trio.move_on_after(1.0):
        try:
            await stream.send_message(fail, end=True)
        except StreamLost:
            return
