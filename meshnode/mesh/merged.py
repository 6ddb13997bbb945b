"""What a batch of records brought, record by record: taken, or why not. Plain words; it judges nothing."""

from dataclasses import dataclass
from enum import StrEnum

from meshwire.records import Record


class Refused(StrEnum):
    """Why a record was not taken. Only the first and the equivocation speak against anybody."""

    MALFORMED = "malformed"
    EQUIVOCATION = "equivocation"  # two bodies under one seq: the owner is lying to somebody
    STRANGER = "stranger"
    STALE = "stale"
    LEFT = "left"
    SKEWED = "skewed"
    TOO_MANY = "too-many"
    FULL = "full"
    OWN = "own"


SETTLED = frozenset({None, Refused.STALE, Refused.LEFT, Refused.TOO_MANY, Refused.FULL})
"""Outcomes after which there is no use in being sent the record again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that was not taken; `record` is None if it could not even be read."""

    reason: Refused
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """What a batch brought: `accepted` in the order in which they took effect.

    `believed` are all whose signers count, those that were held already or are outdated too.
    """

    accepted: tuple[Record, ...] = ()
    refused: tuple[Refusal, ...] = ()
    believed: tuple[Record, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.accepted)
