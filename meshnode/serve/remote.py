"""The remote step: a job sent over a link, direct or a sealed circuit through relays; pieces come back."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from meshnode.errors import DeadlineExceeded, Interrupted, MeshError, Unreachable
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.serve.packing import error_from, pack_job
from meshnode.terms import Emitted, End, FinishReason, Job, Piece, Progress, Usage
from meshwire import messages
from meshwire.limits import RESPONSE_MAX
from meshwire.messages import Message, ResetCode

_REASONS = frozenset(FinishReason)  # a newer node may know more


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
        async with aclosing(_emitted(stream)) as emitted:
            yield emitted
    finally:
        stream.reset(ResetCode.CANCEL)  # does nothing once both ends are done


async def _open(link: Link, job: Job) -> Stream:
    opening = messages.Open(
        messages.KIND_ASK, request=job.id.encode()[:64], remaining_ms=min(job.deadline_ms, messages.U32_MAX)
    )
    return await link.open(opening)


async def _send_ask(stream: Stream, packed: bytes) -> None:
    try:
        await stream.send_message(messages.Ask(packed), end=True)
    except StreamLost as error:
        raise lost(error) from error


async def _emitted(stream: Stream) -> AsyncGenerator[Emitted, None]:
    """What the other end emits, numbered without a gap; a stream that just stops is an answer cut short."""
    next_index = characters = 0
    while True:
        try:
            message = await stream.receive_message()
        except StreamLost as error:
            raise lost(error) from error
        if message is None:
            raise Interrupted("The node that served the answer stopped in the middle of it.")
        emitted = read(message)
        if isinstance(emitted, Piece):
            if emitted.first_index != next_index:
                raise Interrupted(f"Token {next_index} of the answer is missing or came twice.")
            next_index += len(emitted.ids)
            characters += len(emitted.text)
        if characters > RESPONSE_MAX:
            raise Interrupted(f"The answer is longer than {RESPONSE_MAX} characters.")
        yield emitted
        if isinstance(emitted, End):
            return


def read(message: Message) -> Emitted:
    """What a message from the worker's side says; a Fail is raised."""
    match message:
        case messages.Chunk(first_index, ids, text):
            return Piece(first_index, ids, text)
        case messages.Progress(done, total):
            return Progress(done, total)
        case messages.End(reason, prompt, completion, cached):
            known = FinishReason(reason) if reason in _REASONS else FinishReason.STOP
            return End(known, Usage(prompt, completion, cached))
        case messages.Fail(code, text, hint, retry_after_s, param):
            raise error_from(code, text, hint, param, retry_after_s)
    raise Interrupted(
        f"The node that served the answer sent a {type(message).__name__}, which makes no sense here."
    )


def write(emitted: Emitted) -> Message:
    """The message that `read` reads."""
    match emitted:
        case Piece(first_index, ids, text):
            return messages.Chunk(first_index, ids, text)
        case Progress(done, total):
            return messages.Progress(done, total)
        case End(reason, usage):
            return messages.End(
                reason.value, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens
            )


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
    fail = messages.Fail(
        error.code, error.message[:2048], error.hint[:2048], error.retry_after_s, error.param[:256]
    )
    with trio.move_on_after(1.0):
        try:
            await stream.send_message(fail, end=True)
        except StreamLost:
            return
