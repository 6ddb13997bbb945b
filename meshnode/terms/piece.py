"""What comes out of a run: numbered pieces, progress on long prefills, and exactly one end."""

from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a run ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    """Some tokens and the text they make.

    `first_index` is the index, in the whole answer, of the first of `ids`; a token id leaves the worker only
    together with its bytes. `ids` is empty for an engine that does not know them.
    """

    first_index: int
    ids: tuple[int, ...]
    text: str


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far a long prefill has come: `done` of `total` prompt tokens."""

    done: int
    total: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens counted by the engine itself."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class End(msgspec.Struct, frozen=True, tag="end"):
    """The clean end of a run; its absence is truncation."""

    reason: FinishReason
    usage: Usage


Emitted = Piece | Progress | End


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Who serves a request, known before the first piece.

    `path` names every node from the origin to the one that serves, both included; `rung` is local or peer.
    """

    model: str
    served_by: str
    path: tuple[str, ...]
    rung: str
    trust: str
    tier: int
    attempts: int = 1
