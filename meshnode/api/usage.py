"""The tokens of an answer in OpenAI's shape. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from meshnode.terms import End, Usage


class CachedTokens(msgspec.Struct, frozen=True):
    """How much of the prompt was not computed again."""

    cached_tokens: int


class UsageShape(msgspec.Struct, frozen=True):
    """Tokens, as OpenAI counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


def usage_of(prompts: Iterable[Sequence[End]]) -> UsageShape:
    """The tokens of the choices of each prompt, all together.

    What choices have in common counts once: their prompt, for the choice that computed most of it.
    """
    ends = [list(choices) for choices in prompts]
    read = [min((end.usage for end in choices), key=_cached) for choices in ends]
    prompt = sum(usage.prompt_tokens for usage in read)
    written = sum(end.usage.completion_tokens for choices in ends for end in choices)
    return UsageShape(prompt, written, prompt + written, CachedTokens(sum(map(_cached, read))))


def _cached(usage: Usage) -> int:
    return usage.cached_tokens
