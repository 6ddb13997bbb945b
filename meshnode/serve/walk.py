"""The walk of one request: admit, recall, choose, run; try elsewhere before the first piece, and go on so after it.

An answer whose node or link is lost goes on from the ids of its tokens, at a node with the very same weights. It
knows no sockets and no HTTP. Exactly one terminal event comes out: an End, or one MeshError.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from meshnode.errors import MeshError
from meshnode.routing.hedging import Hedging
from meshnode.routing.retries import RetryBudget
from meshnode.serve.admit import Admission
from meshnode.serve.course import AGAIN_S, Choose, Course, RunOn
from meshnode.serve.hedge import Hedger
from meshnode.serve.recall import Recall
from meshnode.serve.running import Running
from meshnode.serve.trial import ATTEMPTS, SILENCE_S, Trial, too_late
from meshnode.terms import Answer, Candidate, Emitted, End, Job

__all__ = ["SILENCE_S", "Walk"]


class Walk:
    """Takes a Job in and gives Pieces out, wherever they are made."""

    def __init__(
        self,
        admission: Admission,
        choose: Choose,
        run_on: RunOn,
        answer_for: Callable[[Candidate], Answer],
        budget: RetryBudget | None = None,
        recall: Recall | None = None,
        hedger: Hedger | None = None,
    ) -> None:
        self._admission = admission
        self._recall = recall
        self._choose = choose
        self._run_on = run_on
        self._answer_for = answer_for
        self._budget = budget or RetryBudget()
        self._hedger = hedger or Hedger(Hedging(self._budget))

    @asynccontextmanager
    async def ask(self, job: Job) -> AsyncIterator[Running]:
        """Run a job at the best place; leaving the context cancels it wherever it runs.

        Raises MeshError on entering while nothing was emitted; later failures come out of the iterator.
        """
        with self._admission.place():
            recalled = self._recall.answer(job, self._run) if self._recall else self._run(job)
            async with recalled as running:
                yield running

    @asynccontextmanager
    async def _run(self, job: Job) -> AsyncIterator[Running]:
        """Run a job that nothing is remembered of."""
        self._budget.asked(trio.current_time())
        self._hedger.hedging.asked()
        trial = Trial(job, trio.current_time() + job.deadline_ms / 1000)
        while trial.goes_on:
            async with AsyncExitStack() as attempt:
                waiting = attempt.enter_context(trio.CancelScope(deadline=trial.deadline))
                course = Course(trial, self._choose, self._run_on, self._answer_for)
                attempt.push_async_callback(course.aclose)
                running = await self._attempt(trial, course)
                waiting.deadline = math.inf  # from here on only the wait for the next piece is bounded
                if running is not None and not waiting.cancel_called:
                    yield running
                    return
            if waiting.cancel_called:  # perhaps in the very moment of the first piece
                raise too_late(job)
        raise trial.verdict()

    async def _attempt(self, trial: Trial, course: Course) -> Running | None:
        """Run the job on the next candidate until it says something; else None, and why in `trial.failure`."""
        candidate = await self._next_candidate(trial)
        if candidate is None:
            return None
        trial.failure = None
        try:
            await course.begin(candidate)
        except MeshError as error:
            trial.failure = error
        emitted = await self._hedger.first(trial, course, candidate, self._run_on)
        if emitted is None:
            return None
        trial.begun = True
        return Running(trial.answer, _Pieces(emitted, trial, course))

    async def _next_candidate(self, trial: Trial) -> Candidate | None:
        """The best candidate not tried yet, chosen anew if the last was lost; None, and why in `trial.failure`."""
        if not trial.candidates and not trial.chosen_enough:
            if trial.choices:
                await trio.sleep(AGAIN_S * trial.choices)
            trial.choices += 1
            try:
                trial.candidates = deque(await self._choose(trial.job))
            except MeshError as error:
                trial.failure, trial.exhausted = trial.failure or error, True
                return None
        retries = trial.attempts > 0 and bool(trial.candidates)
        over_budget = retries and not self._budget.may_retry(trio.current_time())
        if not trial.candidates or trial.attempts == ATTEMPTS or over_budget:
            trial.exhausted = True
            return None
        trial.attempts += 1
        return trial.candidates.popleft()


class _Pieces(AsyncIterator[Emitted]):
    """What a run emits from its first item on, each in time; a failure is the one that the client gets."""

    def __init__(self, first: Emitted, trial: Trial, course: Course) -> None:
        self._first: Emitted | None = first
        self._trial = trial
        self._course = course
        self._over = False

    async def __anext__(self) -> Emitted:
        """The next item; nothing comes after an End. Raises MeshError."""
        if self._over:
            raise StopAsyncIteration
        item, self._first = self._first, None
        try:
            item = item or await self._next()
        except MeshError:
            self._over = True
            raise
        self._trial.note(item)
        self._over = isinstance(item, End)
        return self._trial.billed(item) if isinstance(item, End) else item

    async def _next(self) -> Emitted:
        if trio.current_time() < self._trial.deadline:
            with trio.CancelScope(deadline=self._trial.deadline):
                while (item := await self._course.next()) is None:
                    if not await self._course.go_on():
                        raise self._trial.verdict()
                return item
        raise too_late(self._trial.job)
