"""A text completion in OpenAI's shapes, whole or as chunks, which look alike. Pure: emitted pieces in, JSON out."""

from __future__ import annotations

import codecs
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from meshnode.api.gathered import Gathered
from meshnode.api.text.body import TextBody
from meshnode.api.usage import UsageShape, usage_of
from meshnode.serve.emitting import finite
from meshnode.terms import End, FinishReason, Piece, TokenLogprob


class LikelihoodLists(msgspec.Struct, frozen=True):
    """One entry of each list for each token. `top_logprobs` has the likeliest by their text, and the token itself.

    `text_offset` counts characters from the beginning of the choice's text.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A choice, or what a chunk adds to it."""

    text: str
    index: int
    logprobs: LikelihoodLists | None = None
    finish_reason: FinishReason | None = None


class TextCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer, or one event of a stream; there `usage` is null until the last, if it was asked for."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[TextChoice, ...]
    usage: UsageShape | UnsetType | None = UNSET


class TextShapes:
    """One answer's JSON: the same id, time and model throughout. Choices are numbered through all prompts."""

    def __init__(self, asked: TextBody, job_id: str, created: int, model: str) -> None:
        self._id = f"cmpl-{job_id}"
        self._created = created
        self._model = model
        self._prompts = asked.prompts
        self._echoes = bool(asked.echo)
        self._each = asked.choices
        self._usage: UnsetType | None = None if asked.include_usage else UNSET
        self._likelihoods: defaultdict[int, _Likelihoods] = defaultdict(_Likelihoods)

    def opening(self, choice: int) -> bytes | None:
        """The prompt, where it is to be echoed."""
        echo = self._echo(choice)
        return self._chunk(TextChoice(text=echo, index=choice)) if echo else None

    def piece(self, choice: int, piece: Piece) -> bytes | None:
        """A chunk with what a piece adds to a choice; None if it adds nothing."""
        if not (piece.text or piece.logprobs):
            return None
        logprobs = self._likelihoods[choice].add(piece.logprobs)
        return self._chunk(TextChoice(text=piece.text, index=choice, logprobs=logprobs))

    def closing(self, choice: int, end: End) -> bytes:
        """A choice's one terminal chunk."""
        return self._chunk(TextChoice(text="", index=choice, finish_reason=end.reason))

    def counted(self, ends: Sequence[End]) -> list[bytes]:
        """The count of tokens over all choices, if it was asked for."""
        return [] if self._usage is UNSET else [self._encoded((), self._count(ends))]

    def whole(self, choices: Sequence[Gathered]) -> bytes:
        """The answer in one object."""
        ends = [gathered.end for gathered in choices if gathered.end]
        shapes = (self._choice(*each, end) for each, end in zip(enumerate(choices), ends, strict=True))
        return self._encoded(tuple(shapes), self._count(ends))

    def _choice(self, index: int, gathered: Gathered, end: End) -> TextChoice:
        logprobs = self._likelihoods[index].add(gathered.logprobs)
        text = self._echo(index) + gathered.text
        return TextChoice(text=text, index=index, logprobs=logprobs, finish_reason=end.reason)

    def _echo(self, choice: int) -> str:
        return self._prompts[choice // self._each] if self._echoes else ""

    def _count(self, ends: Sequence[End]) -> UsageShape:
        """Prompts are different, so each counts; choices of one have it in common."""
        return usage_of(ends[at : at + self._each] for at in range(0, len(ends), self._each))

    def _chunk(self, choice: TextChoice) -> bytes:
        return self._encoded((choice,), self._usage)

    def _encoded(self, choices: tuple[TextChoice, ...], usage: UsageShape | UnsetType | None) -> bytes:
        completion = TextCompletion(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )
        return msgspec.json.encode(completion)


class _Likelihoods:
    """The likelihoods of one choice as they come, and where in its text the next token begins."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def add(self, tokens: Iterable[TokenLogprob]) -> LikelihoodLists | None:
        """The lists for the next tokens; None for none."""
        tokens = tuple(tokens)
        if not tokens:
            return None
        return LikelihoodLists(
            tuple(_text(one.token) for one in tokens),
            tuple(finite(one.logprob) for one in tokens),
            tuple(map(_likeliest, tokens)),
            tuple(self._pass(one.token) for one in tokens),
        )

    def _pass(self, token: bytes) -> int:
        """Where a token begins."""
        begins = self._characters
        self._characters += len(self._decoder.decode(token))
        return begins


def _likeliest(one: TokenLogprob) -> dict[str, float]:
    named: dict[str, float] = {}
    for other in one.top:  # of two tokens with one text the likelier is told
        named.setdefault(_text(other.token), finite(other.logprob))
    named.setdefault(_text(one.token), finite(one.logprob))
    return named


def _text(token: bytes) -> str:
    """A token as text; a part of a character by its bytes, as OpenAI wrote it, so that no two are confused."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
