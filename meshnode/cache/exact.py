"""Answers to the very same request: what may be kept and given again, and an answer as a row and back.

It decides by the request alone and keeps rows in the store; it computes nothing and knows no likeness.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from meshnode.cache.key import Keys, fits
from meshnode.cache.words import CHARACTERS_MAX
from meshnode.state.answers import AnswerRow, AnswerStore
from meshnode.terms import (
    Answer,
    CacheMode,
    Emitted,
    End,
    FinishReason,
    Job,
    ModelCard,
    Piece,
    Privacy,
    Usage,
)
from meshnode.terms.job import TOOL_CHOICE_NONE

NEVER_KEPT = frozenset((Privacy.SENSITIVE, Privacy.LOCAL))
_ORDER = (CacheMode.OFF, CacheMode.EXACT, CacheMode.SEMANTIC)


class Skip(StrEnum):
    """Why a request passes the cache by; the first that holds, in this order, is named."""

    OFF = "the cache is off"
    PRIVACY = "its privacy class is never kept"
    NO_CHAT = "it is no chat, or goes on with an answer that was begun"
    TOOLS = "it may call tools"
    DRAWN = "its answer is drawn by lot, and it has not asked for the cache"


def skip(job: Job, ceiling: CacheMode) -> Skip | None:
    """Why a request passes the cache by, None if it does not; `ceiling` is the most that this node allows."""
    checks = (
        (Skip.OFF, mode(job, ceiling) is CacheMode.OFF),
        (Skip.PRIVACY, job.wish.privacy in NEVER_KEPT),
        (Skip.NO_CHAT, bool(job.inputs or job.resume or not job.turns)),
        (Skip.TOOLS, _uses_tools(job)),
        (Skip.DRAWN, job.sampling.temperature > 0 and job.wish.cache is None),
    )
    return next((reason for reason, holds in checks if holds), None)


def mode(job: Job, ceiling: CacheMode) -> CacheMode:
    """What the request may use: what it wishes, and no more than this node allows."""
    wished = CacheMode.EXACT if job.wish.cache is None else job.wish.cache
    return min(wished, ceiling, key=_ORDER.index)


def _uses_tools(job: Job) -> bool:
    called = any(turn.tool_calls or turn.role == "tool" for turn in job.turns)
    return called or bool(job.tools and job.tool_choice != TOOL_CHOICE_NONE)


class Kept(msgspec.Struct, frozen=True):
    """An answer as it is kept: its whole text and tokens, and who gave it with which weights."""

    answer: Answer
    card: ModelCard
    text: str
    ids: tuple[int, ...]
    usage: Usage

    @property
    def items(self) -> tuple[Emitted, ...]:
        """What a run would emit; nothing of its prompt was computed, and nothing is paid twice."""
        pieces = (Piece(0, self.ids, self.text),) if self.text or self.ids else ()
        usage = msgspec.structs.replace(self.usage, cached_tokens=self.usage.prompt_tokens, cost_nusd=0)
        return (*pieces, End(FinishReason.STOP, usage))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


def kept_from(answer: Answer, items: Sequence[Emitted]) -> Kept | None:
    """An answer to keep; None for one that called, did not come to its end by itself, or is not only text."""
    end = items[-1] if items else None
    pieces = [item for item in items if isinstance(item, Piece)]
    whole = isinstance(end, End) and end.reason is FinishReason.STOP
    if not whole or not answer.digest or any(piece.calls or piece.logprobs for piece in pieces):
        return None
    assert isinstance(end, End)
    family, _, size = answer.model.partition(":")
    card = ModelCard(
        name=answer.model,
        family=family,
        size=size,
        quant="",
        tier=answer.tier,
        digest=answer.digest,
        context=0,
    )
    return Kept(
        answer=answer,
        card=card,
        text="".join(piece.text for piece in pieces),
        ids=tuple(token for piece in pieces for token in piece.ids),
        usage=end.usage,
    )


def row_of(keys: Keys, job: Job, kept: Kept) -> AnswerRow:
    """The answer to a request as the store keeps it."""
    question = question_of(job)
    return AnswerRow(keys.ask(job), kept.card.digest, keys.namespace(job), question, _encode(kept))


def kept_of(row: AnswerRow) -> Kept | None:
    """The answer in a row; None for what another version wrote."""
    try:
        return _decode(row.body)
    except msgspec.MsgspecError:
        return None


def question_of(job: Job) -> str:
    """What was said last, if it is a question short enough to be compared with others; else empty."""
    last = job.turns[-1]
    plain = last.role == "user" and not last.name and len(last.content) <= CHARACTERS_MAX
    return last.content if plain else ""


async def recalled(store: AnswerStore, ask: bytes, job: Job, now_ms: int) -> Kept | None:
    """The answer to the very same request, whose key is `ask`, by the best weights that it asks for; or None."""
    found = [kept_of(row) for row in await store.of_ask(ask, now_ms)]
    fitting = [kept for kept in found if kept is not None and fits(job, kept.card)]
    return max(fitting, key=lambda kept: kept.card.tier, default=None)
