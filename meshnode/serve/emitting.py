"""What a run emits, as messages of a stream, and back. It knows neither streams nor links.

A piece of many tokens travels as several Chunks; at the other end it is one piece again, or none at all.
"""

import math
from collections.abc import Iterator, Sequence

from meshnode.errors import Interrupted
from meshnode.serve.packing import error_from
from meshnode.terms import (
    Emitted,
    End,
    FinishReason,
    Likelihood,
    Piece,
    Progress,
    TokenLogprob,
    ToolCall,
    Usage,
    Vector,
)
from meshwire import inner
from meshwire.limits import ANSWER_TOKENS, CHUNK_TOKENS
from meshwire.numbers import Message

IMPOSSIBLE = -9999.0  # what stands for minus infinity, as in OpenAI's answers
_REASONS = frozenset(FinishReason)  # a newer node may know more


def write(emitted: Emitted) -> list[Message]:
    """The messages that a `Reader` reads, in order."""
    match emitted:
        case Piece():
            return list(_chunks(emitted))
        case Progress(done, total):
            return [inner.Progress(done, total)]
        case Vector(index, values):
            return [inner.Vector(index, values)]
        case End(reason, usage):
            counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            return [inner.End(reason.value, *counts)]


def _chunks(piece: Piece) -> Iterator[inner.Chunk]:
    """The piece in parts, the text and the calls in the last."""
    count = max(len(piece.ids), len(piece.logprobs))
    last = max(0, (count - 1) // CHUNK_TOKENS) * CHUNK_TOKENS
    for start in range(0, last, CHUNK_TOKENS):
        yield inner.Chunk(*_numbers(piece, start), "", (), _likelihoods(piece, start), True)
    calls = tuple(inner.Call(call.id, call.name, call.arguments) for call in piece.calls)
    yield inner.Chunk(*_numbers(piece, last), piece.text, calls, _likelihoods(piece, last))


def _numbers(piece: Piece, start: int) -> tuple[int, tuple[int, ...]]:
    """The first index and the ids of the part that begins at `start`."""
    return piece.first_index + min(start, len(piece.ids)), piece.ids[start : start + CHUNK_TOKENS]


def _likelihoods(piece: Piece, start: int) -> tuple[inner.TokenLogprob, ...]:
    return tuple(
        inner.TokenLogprob(
            one.token,
            finite(one.logprob),
            tuple(inner.Likelihood(other.token, finite(other.logprob)) for other in one.top),
        )
        for one in piece.logprobs[start : start + CHUNK_TOKENS]
    )


def finite(logprob: float) -> float:
    """The log-probability as JSON and the wire can carry it."""
    return logprob if math.isfinite(logprob) else IMPOSSIBLE


class Reader:
    """Reads the messages of one answer. `read` gives None while a piece has not come whole."""

    def __init__(self) -> None:
        self._parts: list[Piece] = []
        self._tokens = 0

    def read(self, message: Message) -> Emitted | None:
        """What a message from the worker's side says; a Fail is raised, and Interrupted for nonsense."""
        if isinstance(message, inner.Progress) and message.filler:
            return None
        if isinstance(message, inner.Chunk):
            return self._take(_piece(message), message.more)
        if self._parts and not isinstance(message, inner.Fail):
            raise Interrupted("The node that served the answer broke a piece of it off.")
        return _read_other(message)

    def _take(self, part: Piece, more: bool) -> Piece | None:
        """The whole piece, if this was its last part."""
        if self._parts and part.first_index != self._parts[0].first_index + self._tokens:
            raise Interrupted("A part of a piece of the answer is missing or came twice.")
        self._parts.append(part)
        self._tokens += len(part.ids)
        if self._tokens > ANSWER_TOKENS or len(self._parts) > ANSWER_TOKENS // CHUNK_TOKENS:
            raise Interrupted(f"A piece of the answer has more than {ANSWER_TOKENS} tokens.")
        if more:
            return None
        parts, self._parts, self._tokens = self._parts, [], 0
        return part if len(parts) == 1 else joined(parts)


def joined(parts: Sequence[Piece]) -> Piece:
    """Pieces that follow one another, at least one, as a single one."""
    return Piece(
        parts[0].first_index,
        tuple(token for part in parts for token in part.ids),
        "".join(part.text for part in parts),
        tuple(call for part in parts for call in part.calls),
        tuple(one for part in parts for one in part.logprobs),
    )


def _piece(chunk: inner.Chunk) -> Piece:
    return Piece(
        chunk.first_index,
        chunk.ids,
        chunk.text,
        tuple(ToolCall(call.id, call.name, call.arguments) for call in chunk.calls),
        tuple(
            TokenLogprob(
                one.token, one.logprob, tuple(Likelihood(other.token, other.logprob) for other in one.top)
            )
            for one in chunk.logprobs
        ),
    )


def _read_other(message: Message) -> Emitted:
    match message:
        case inner.Progress(done, total):
            return Progress(done, total)
        case inner.Vector(index, values):
            return Vector(index, values)
        case inner.End(reason, prompt, completion, cached):
            known = FinishReason(reason) if reason in _REASONS else FinishReason.STOP
            return End(known, Usage(prompt, completion, cached))
        case inner.Fail():
            raise error_from(message)
    raise Interrupted(
        f"The node that served the answer sent a {type(message).__name__}, which makes no sense here."
    )
