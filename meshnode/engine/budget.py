"""Who may be in memory: models share a budget, and one that is asked for displaces one that idles.

The least recently used idle occupant is asked to leave, never one that is at work. It counts bytes that it is
told of, and knows neither models nor processes.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from meshnode.errors import EngineFailed

FREE_SHARE = 0.7  # of the memory that is free at the start, when nobody says how much


class Occupant(Protocol):
    """Something that takes memory and can give it back."""

    @property
    def idle(self) -> bool:
        """Whether it could leave now without anybody noticing."""
        ...

    @property
    def used_at(self) -> float:
        """When it last did some work, on trio's clock."""
        ...

    def vacate(self) -> None:
        """Leave; the room is given back when that is done."""
        ...


class MemoryBudget:
    """So many bytes for all models of a node together."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._taken: dict[Occupant, int] = {}
        self._leaving: dict[Occupant, None] = {}
        self._waiting: list[tuple[Occupant, int]] = []
        self._changed = trio.Event()

    @property
    def free_bytes(self) -> int:
        """What nobody holds."""
        return self.total_bytes - sum(self._taken.values())

    def changed(self) -> None:
        """An occupant has become idle, or has gone: those who wait look again."""
        self._changed.set()
        self._changed = trio.Event()

    @asynccontextmanager
    async def room(self, occupant: Occupant, need_bytes: int) -> AsyncIterator[None]:
        """Hold so many bytes, waiting for them in turn. Raises EngineFailed when there can never be as many."""
        if need_bytes > self.total_bytes:
            raise too_large(need_bytes, self.total_bytes)
        await self._wait_for(occupant, need_bytes)
        self._taken[occupant] = need_bytes
        try:
            yield
        finally:
            del self._taken[occupant]
            self._leaving.pop(occupant, None)
            self.changed()

    async def _wait_for(self, occupant: Occupant, need_bytes: int) -> None:
        """The first in line makes room; a later one may pass when it takes nothing from the first."""
        claim = (occupant, need_bytes)
        self._waiting.append(claim)
        try:
            while not self._may_enter(claim):
                if self._waiting[0] is claim:
                    self._make_room(need_bytes)
                await self._changed.wait()
        finally:
            self._waiting.remove(claim)
            self.changed()

    def _may_enter(self, claim: tuple[Occupant, int]) -> bool:
        first, free_bytes = self._waiting[0], self.free_bytes
        passes = first is claim or not (self._leaving or free_bytes >= first[1])
        return passes and free_bytes >= claim[1]

    def _make_room(self, need_bytes: int) -> None:
        """Ask idle occupants to leave, the longest unused first, if that is enough; else nobody."""
        coming = self.free_bytes + sum(self._taken[occupant] for occupant in self._leaving)
        idle = [occupant for occupant in self._taken if occupant.idle and occupant not in self._leaving]
        chosen: list[Occupant] = []
        for occupant in sorted(idle, key=lambda occupant: occupant.used_at):
            if coming >= need_bytes:
                break
            coming += self._taken[occupant]
            chosen.append(occupant)
        if coming < need_bytes:
            return
        for occupant in chosen:
            self._leaving[occupant] = None
            occupant.vacate()


def too_large(need_bytes: int, total_bytes: int) -> EngineFailed:
    """Why a model cannot be had on this node."""
    return EngineFailed(
        f"the model needs {need_bytes >> 20} MiB of memory, and all models together may take"
        f" {total_bytes >> 20} MiB",
        hint="Raise `memory_mb`, set a smaller `context` or fewer `slots`, or take a smaller model.",
    )
