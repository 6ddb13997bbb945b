"""What the node asks of anything that turns a Job into Pieces. It knows neither processes nor the mesh."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec
import trio

from meshnode.terms import Emitted, Job, ModelCard, Posture, Recheck, Redrawn


class EngineState(StrEnum):
    """Where an engine is in its life."""

    ABSENT = "absent"  # no model was given to it
    LOADING = "loading"  # starting, or starting again after a crash
    STANDBY = "standby"  # known and measured, but not in memory; the first request loads it
    READY = "ready"
    FAILED = "failed"  # given up; `detail` says why and what to do


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy an engine is now.

    `in_flight` counts runs that were accepted and have not ended, waiting ones included; `queued_prefill` is
    the prompt tokens still to be read and `queued_decode` the answer tokens still to be written by all of
    them; `slots` is how many run at once.
    """

    in_flight: int = 0
    queued_prefill: int = 0
    queued_decode: int = 0
    slots: int = 1


class Engine(Protocol):
    """A source of pieces. All of it belongs to the thread of trio that runs `serve`."""

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models it serves at this moment: those of READY and STANDBY, and of LOADING after STANDBY."""
        ...

    @property
    def state(self) -> EngineState:
        """Where it is in its life."""
        ...

    @property
    def detail(self) -> str:
        """One line for a person: how far the load is, or why it failed; else empty."""
        ...

    @property
    def load(self) -> Load:
        """How busy it is at this moment."""
        ...

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever `state`, `detail` or `cards` changed (not for `load`)."""
        ...

    @property
    def posture(self) -> Posture:
        """What it could do if it were taken over; what is not known counts as possible."""
        ...

    def run(self, job: Job, scope: bytes = b"") -> AbstractAsyncContextManager[AsyncIterator[Emitted]]:
        """Run a job: Progress and Pieces (or Vectors), then exactly one End, after which the iterator stops.

        Jobs of the same `scope` may share what was computed for a common beginning of their prompts; with an
        empty one nothing is shared. Whoever calls puts everybody who must not learn of each other apart.

        Leaving the context cancels the run and frees its slot. Entering or iterating raises MeshError:
        ContextExceeded (prompt and answer do not fit), Busy (the queue is full), ModelNotFound (no model is
        loaded), BadRequest (the model's template refuses the turns), EngineFailed (the engine broke). Failing in
        a nursery around the iterator is no way to raise one: it would cancel the caller, perhaps in a write.
        """
        ...

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The engine's whole life, until cancelled; it starts at once and loads behind the caller's back."""
        ...


@runtime_checkable
class Rechecker(Engine, Protocol):
    """An engine that can say whether its model would have written an answer that came from elsewhere."""

    async def recheck(self, check: Recheck) -> tuple[Redrawn, ...]:
        """Each place of the answer drawn again, with the same seed; nothing where that cannot be done now.

        It computes only while it has nothing else to do, and gives way at once to a run that comes.
        """
        ...
