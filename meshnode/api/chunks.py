"""A chat completion in OpenAI's shapes, whole or as chunks. Pure: emitted pieces in, JSON out."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from meshnode.terms import End, FinishReason, Usage


class CachedTokens(msgspec.Struct, frozen=True):
    """How much of the prompt was not computed again."""

    cached_tokens: int


class UsageShape(msgspec.Struct, frozen=True):
    """Tokens, as OpenAI counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds to the message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The one choice in a chunk."""

    index: int = 0
    delta: Delta = Delta()
    logprobs: None = None
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
    """The answer as a message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The one choice of a whole answer."""

    index: int = 0
    message: MessageShape
    logprobs: None = None
    finish_reason: FinishReason


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was not streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: UsageShape


class Shapes:
    """One answer's JSON: the same id, time and model throughout."""

    def __init__(self, job_id: str, created: int, model: str, *, include_usage: bool) -> None:
        self._id = f"chatcmpl-{job_id}"
        self._created = created
        self._model = model
        self._include_usage = include_usage

    def opening(self) -> bytes:
        """The first chunk, which names the role."""
        return self._chunk(ChunkChoice(delta=Delta(role="assistant", content="")))

    def text(self, text: str) -> bytes:
        """A chunk with some text."""
        return self._chunk(ChunkChoice(delta=Delta(content=text)))

    def closing(self, end: End) -> list[bytes]:
        """The one terminal chunk, and the count of tokens if it was asked for."""
        last = [self._chunk(ChunkChoice(finish_reason=end.reason))]
        if self._include_usage:
            last.append(self._chunk(None, _usage(end.usage)))
        return last

    def whole(self, text: str, end: End) -> bytes:
        """The answer in one object."""
        choice = Choice(message=MessageShape(content=text), finish_reason=end.reason)
        return msgspec.json.encode(
            Whole(
                id=self._id,
                created=self._created,
                model=self._model,
                choices=(choice,),
                usage=_usage(end.usage),
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


def _usage(usage: Usage) -> UsageShape:
    return UsageShape(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens + usage.completion_tokens,
        CachedTokens(usage.cached_tokens),
    )
