"""Words, jobs and kept answers for the plays about the cache."""

from typing import Any

import msgspec

from meshnode.cache.difference import Difference, difference
from meshnode.cache.guard import Objection, objection
from meshnode.cache.words import parse
from meshnode.terms import Answer, End, FinishReason, Job, Piece, Sampling, Turn, Usage, Wish

DIGEST = b"w" * 32
KNOWN = {
    "change": 423_571, "password": 9_000, "address": 50_000, "open": 90_000, "closed": 30_000, "the": 900_000,
    "cat": 9_000, "us": 2_000_000, "cream": 9_000, "dream": 9_000, "austria": 87, "order": 60_000, "monday": 9_000,
    "prescription": 10_132,
}  # fmt: skip


class Words:
    """A vocabulary of a few words."""

    def count(self, word: str) -> int:
        return KNOWN.get(word, 0)


def found(one: str, other: str) -> Difference:
    return difference(parse(one), parse(other), Words())


def objects(one: str, other: str) -> Objection | None:
    return objection(parse(one), parse(other), found(one, other))


def asked(
    text: str = "Why is the sky blue?",
    *,
    earlier: tuple[Turn, ...] = (),
    tenant: bytes = b"",
    sampling: Sampling | None = None,
    facts: dict[str, Any] | None = None,
    **wish: Any,
) -> Job:
    """A job at temperature 0 that says `text` last."""
    return Job(
        id="req-1",
        wish=Wish(**({"model": "smollm2:135m"} | wish)),
        turns=(*earlier, Turn(role="user", content=text)),
        sampling=sampling or Sampling(temperature=0.0),
        tenant_tag=tenant,
        **facts or {},
    )


def answer(**facts: Any) -> Answer:
    given = Answer(
        model="smollm2:135m",
        served_by="b",
        path=("a", "b"),
        rung="peer",
        trust="trusted",
        tier=2,
        digest=DIGEST,
    )
    return msgspec.structs.replace(given, **facts)


def said(*texts: str, reason: FinishReason = FinishReason.STOP) -> list[Any]:
    """Pieces and an end."""
    return [*(Piece(at, (at,), text) for at, text in enumerate(texts)), End(reason, Usage(9, len(texts), 0))]
