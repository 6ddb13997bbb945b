"""What comes out of a run: numbered pieces, progress on long prefills, and exactly one end."""

from enum import StrEnum

import msgspec

from meshnode.terms.job import ToolCall
from meshnode.terms.money import CloudOffer


class FinishReason(StrEnum):
    """Why a run ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Likelihood(msgspec.Struct, frozen=True):
    """A token's bytes, and the natural logarithm of the probability that the model gave it."""

    token: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True):
    """The likelihood of a token that was written, and of the likeliest in its place, best first."""

    token: bytes
    logprob: float
    top: tuple[Likelihood, ...] = ()


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    """Some tokens and the text they make.

    `first_index` is the index, in the whole answer, of the first of `ids`; a token id leaves the worker only
    together with its bytes. `ids` is empty for an engine that does not know them. `calls` are the tool calls
    that these tokens complete, whose own text is not in `text`; `logprobs`, if asked for, has one entry for
    each of `ids`.
    """

    first_index: int
    ids: tuple[int, ...]
    text: str
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far a long prefill has come: `done` of `total` prompt tokens."""

    done: int
    total: int


class Vector(msgspec.Struct, frozen=True, tag="vector"):
    """The embedding of input number `index`: unit length, as little-endian 32-bit floats."""

    index: int
    values: bytes


class Usage(msgspec.Struct, frozen=True):
    """Tokens counted by the engine itself; `cached_tokens` of the prompt's were not computed again.

    `cost_nusd` is what those who served it ask for it, in nano-dollars, as the node reckons that asked.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_nusd: int = 0


class End(msgspec.Struct, frozen=True, tag="end"):
    """The clean end of a run; its absence is truncation."""

    reason: FinishReason
    usage: Usage


Emitted = Piece | Progress | Vector | End


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Who serves a request, known before the first piece.

    `path` names every node from the origin to the one that serves, both included; `rung` is local, peer or cloud.
    `digest` is the SHA-256 of the weights. `cache` is empty for an answer that is computed, else how it was found:
    exact, semantic, or flight for a run that was under way; `similarity` is that of the questions, 1 for the same.
    `cloud` says what it costs where a commercial API serves.
    """

    model: str
    served_by: str
    path: tuple[str, ...]
    rung: str
    trust: str
    tier: int
    attempts: int = 1
    digest: bytes = b""
    cache: str = ""
    similarity: float = 1.0
    cloud: CloudOffer | None = None
