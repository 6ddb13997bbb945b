"""A request that has found its place: who serves it, and the pieces as they come."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from meshnode.terms import Answer, Emitted


@dataclass(frozen=True, slots=True)
class Running:
    """The answer's provenance, and its pieces, ended by exactly one End or one MeshError."""

    answer: Answer
    pieces: AsyncIterator[Emitted]
