"""A request that has found its place: who serves it, and the pieces as they come."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from meshnode.errors import Unreachable
from meshnode.terms import Answer, Emitted


class Silent(Unreachable):
    """Nothing at all comes from where the answer is made; it may yet, and the run is still there."""


class LinkLost(Unreachable):
    """The link to where the answer is made is lost; the run may still be there."""


@runtime_checkable
class Distant(Protocol):
    """A run at another node, as an iterator of what it emits, which may outlive the way there.

    Its iterator raises Silent, and can be asked again then.
    """

    def __aiter__(self) -> AsyncIterator[Emitted]:
        """What it emits."""
        ...

    async def __anext__(self) -> Emitted:
        """The next item."""
        ...

    async def heard(self) -> None:
        """Wait until anything comes from there."""
        ...

    async def reattach(self) -> None:
        """Go on with the same run over another way; raises MeshError, and is as it was then."""
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """The answer's provenance, and its pieces, ended by exactly one End or one MeshError."""

    answer: Answer
    pieces: AsyncIterator[Emitted]
