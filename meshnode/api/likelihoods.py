"""Log-probabilities in OpenAI's shape. Pure."""

from __future__ import annotations

import msgspec

from meshnode.serve.emitting import finite
from meshnode.terms import Likelihood, TokenLogprob


class LikelihoodShape(msgspec.Struct, frozen=True):
    """A token as text and as bytes: one token may be half a character, whose text is U+FFFD."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenShape(msgspec.Struct, frozen=True):
    """A token that was written, and the likeliest in its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[LikelihoodShape, ...]


class LogprobsShape(msgspec.Struct, frozen=True):
    """The log-probabilities of a choice, or of what a chunk adds to it."""

    content: tuple[TokenShape, ...]
    refusal: None = None


def logprobs_shape(logprobs: tuple[TokenLogprob, ...]) -> LogprobsShape | None:
    """The shape, null for none."""
    return LogprobsShape(token_shapes(logprobs)) if logprobs else None


def token_shapes(logprobs: tuple[TokenLogprob, ...]) -> tuple[TokenShape, ...]:
    """The tokens that were written, each with its likelihood."""
    return tuple(map(_token, logprobs))


def _token(one: TokenLogprob) -> TokenShape:
    return TokenShape(*_parts(one), tuple(LikelihoodShape(*_parts(other)) for other in one.top))


def _parts(one: TokenLogprob | Likelihood) -> tuple[str, float, tuple[int, ...]]:
    return one.token.decode("utf-8", "replace"), finite(one.logprob), tuple(one.token)
