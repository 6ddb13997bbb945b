"""A chat completion in OpenAI's shapes, whole or as chunks. Pure: emitted pieces in, JSON out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from meshnode.api.gathered import Gathered
from meshnode.api.likelihoods import LogprobsShape, logprobs_shape
from meshnode.api.usage import UsageShape, usage_of
from meshnode.terms import End, FinishReason, Piece, ToolCall


class FunctionShape(msgspec.Struct, frozen=True):
    """What is called: `arguments` is JSON text."""

    name: str
    arguments: str


class CallShape(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `index` counts a choice's calls, in chunks only."""

    index: int | UnsetType = UNSET
    id: str
    type: Literal["function"] = "function"
    function: FunctionShape


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds to the message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: tuple[CallShape, ...] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The one choice in a chunk."""

    index: int
    delta: Delta = Delta()
    logprobs: LogprobsShape | None = None
    finish_reason: FinishReason | None = None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream. `usage` is there only if the client asked for it, and null until the last."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: UsageShape | UnsetType | None = UNSET


class MessageShape(msgspec.Struct, frozen=True, kw_only=True):
    """The answer as a message; one that only calls tools has no content."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: tuple[()] = ()
    tool_calls: tuple[CallShape, ...] | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a whole answer."""

    index: int
    message: MessageShape
    logprobs: LogprobsShape | None
    finish_reason: FinishReason


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was not streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: UsageShape


class ChatShapes:
    """One answer's JSON: the same id, time and model throughout."""

    def __init__(self, job_id: str, created: int, model: str, *, include_usage: bool) -> None:
        self._id = f"chatcmpl-{job_id}"
        self._created = created
        self._model = model
        self._include_usage = include_usage
        self._calls: Counter[int] = Counter()  # that each choice has made

    def opening(self, choice: int) -> bytes:
        """A choice's first chunk, which names the role."""
        return self._chunk(ChunkChoice(index=choice, delta=Delta(role="assistant", content="")))

    def piece(self, choice: int, piece: Piece) -> bytes | None:
        """A chunk with what a piece adds to a choice; None if it adds nothing."""
        if not (piece.text or piece.calls or piece.logprobs):
            return None
        calls = tuple(_call(call, self._calls[choice] + at) for at, call in enumerate(piece.calls))
        self._calls[choice] += len(calls)
        delta = Delta(content=piece.text or UNSET, tool_calls=calls or UNSET)
        return self._chunk(ChunkChoice(index=choice, delta=delta, logprobs=logprobs_shape(piece.logprobs)))

    def closing(self, choice: int, end: End) -> bytes:
        """A choice's one terminal chunk."""
        return self._chunk(ChunkChoice(index=choice, finish_reason=end.reason))

    def counted(self, ends: Sequence[End]) -> list[bytes]:
        """The count of tokens over all choices, if it was asked for."""
        return [self._chunk(None, usage_of([ends]))] if self._include_usage else []

    def whole(self, choices: Sequence[Gathered]) -> bytes:
        """The answer in one object."""
        ends = [gathered.end for gathered in choices if gathered.end]
        return msgspec.json.encode(
            Whole(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=tuple(
                    _choice(*each, end) for each, end in zip(enumerate(choices), ends, strict=True)
                ),
                usage=usage_of([ends]),
            )
        )

    def _chunk(self, choice: ChunkChoice | None, usage: UsageShape | None = None) -> bytes:
        return msgspec.json.encode(
            Chunk(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=(choice,) if choice else (),
                usage=usage if self._include_usage else UNSET,
            )
        )


def _choice(index: int, gathered: Gathered, end: End) -> Choice:
    calls = tuple(map(_call, gathered.calls))
    message = MessageShape(
        content=None if calls and not gathered.text else gathered.text, tool_calls=calls or UNSET
    )
    logprobs = logprobs_shape(tuple(gathered.logprobs))
    return Choice(index=index, message=message, logprobs=logprobs, finish_reason=end.reason)


def _call(call: ToolCall, index: int | UnsetType = UNSET) -> CallShape:
    return CallShape(index=index, id=call.id, function=FunctionShape(call.name, call.arguments))
