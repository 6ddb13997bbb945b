"""A request that is sent to a second node where the first says nothing for long; whoever writes first goes on alone.

Nothing has been told to the client until then, so that no token comes twice. When to do so is decided in
`meshnode.routing.hedging`. It knows neither links nor sockets.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack

import trio

from meshnode.errors import MeshError
from meshnode.routing.hedging import Hedging, kind_of
from meshnode.serve.course import Course, Found, RunOn
from meshnode.serve.trial import ATTEMPTS, Trial
from meshnode.terms import Candidate, Emitted, Progress

WON, LOST, FAILED = "won", "lost", "failed"
OUTCOMES = (WON, LOST, FAILED)
Hear = Callable[[str], None]
"""Hears how each hedge ended: one of OUTCOMES."""


class Hedger:
    """Hedges the requests of this node's own clients, where that is on."""

    def __init__(self, hedging: Hedging, hear: Hear = lambda _outcome: None) -> None:
        self.hedging = hedging
        self.hear = hear

    async def first(
        self, trial: Trial, course: Course, candidate: Candidate, run_on: RunOn
    ) -> Emitted | None:
        """What comes first of a job on a candidate, or beside it; None, and why in the trial, if nothing."""
        allowed = not self.hedging.forbidden(trial.job, candidate)
        after_s = self.hedging.after_s(trial.job, candidate.card) if allowed else None
        if after_s is None:
            return await first_of(trial, course)
        return await _Race(self, trial, course, candidate, run_on).run(after_s)


async def first_of(trial: Trial, course: Course) -> Emitted | None:
    """The first item of the run that is not kept quiet about; None, and why in the trial, if it breaks off before."""
    while (emitted := await course.next()) is not None:
        if not trial.holds_back(emitted):
            return emitted
    return None


class _Race:
    """One request on its first node, and after a while on a second one too."""

    def __init__(
        self, hedger: Hedger, trial: Trial, course: Course, candidate: Candidate, run_on: RunOn
    ) -> None:
        self._hedger = hedger
        self._trial = trial
        self._course = course
        self._candidate = candidate
        self._run_on = run_on
        self._item: Emitted | None = None  # of the first
        self._found: Found | None = None  # at the second
        self._second: Candidate | None = None
        self._outcome = LOST
        self._began_at = trio.current_time()

    async def run(self, after_s: float) -> Emitted | None:
        """The first item of whoever has one first; the other is left at once."""
        spare = AsyncExitStack()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_first, nursery.cancel_scope)
                nursery.start_soon(self._run_second, after_s, spare, nursery.cancel_scope)
            if self._found is None:
                return self._item
            candidate, source, item = self._found
            self._trial.failure, self._outcome = None, WON
            self._note_first()
            await self._course.adopt(candidate, spare, source)
            return item
        finally:
            await spare.aclose()
            self._tell(after_s)

    def _note_first(self) -> None:
        """The first node's token would have come no sooner: else only the quick ones would be remembered."""
        waited_s = trio.current_time() - self._began_at
        self._hedger.hedging.began(kind_of(self._trial.job, self._candidate.card), waited_s)

    def _tell(self, after_s: float) -> None:
        if self._second is not None:
            self._hedger.hear(self._outcome)
            what = f"sent to a second node after {after_s:.3f} s, which {self._outcome}"
            self._hedger.hedging.tell(self._trial.job, what)

    async def _run_first(self, race: trio.CancelScope) -> None:
        self._item = await first_of(self._trial, self._course)
        if self._item is not None or self._second is None:
            race.cancel()  # else the second is the next attempt, and under way already

    async def _run_second(self, after_s: float, spare: AsyncExitStack, race: trio.CancelScope) -> None:
        await trio.sleep(after_s)
        second = self._pick()
        if second is None:
            return
        self._second = second
        try:
            run = self._run_on(second, self._trial.job_left())
            source = await spare.enter_async_context(run)
            item = await anext(source)
            while isinstance(item, Progress):
                item = await anext(source)
        except (MeshError, StopAsyncIteration):
            self._outcome = FAILED
            return
        self._found = second, source, item
        race.cancel()

    def _pick(self) -> Candidate | None:
        """Who is to be sent it as well, which is one of the request's attempts; None where nobody is or may be."""
        trial, hedging = self._trial, self._hedger.hedging
        second = hedging.second(trial.job, self._candidate, tuple(trial.candidates))
        if second is None or trial.attempts >= ATTEMPTS or not hedging.take(trio.current_time()):
            return None
        trial.candidates.remove(second)
        trial.attempts += 1
        return second
