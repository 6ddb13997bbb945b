"""The walk of one request: admit, choose, run, and try elsewhere while nothing has been said yet.

It knows no sockets and no HTTP. Exactly one terminal event comes out: an End, or one MeshError.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol

import msgspec
import trio

from meshnode.errors import (
    Busy,
    ContextExceeded,
    DeadlineExceeded,
    EngineFailed,
    Interrupted,
    MeshError,
    ModelNotFound,
    Unreachable,
)
from meshnode.serve.admit import Admission
from meshnode.serve.running import Running
from meshnode.terms import Answer, Candidate, Emitted, End, Job, Progress

ATTEMPTS = 3  # the first choice and at most two more
AGAIN_S = 0.25  # before choosing again, twice that before the next time: a node that is back needs a moment
SILENCE_S = 5.0  # how long an attempt may read the prompt before its progress, and so its place, is told
ELSEWHERE = (Busy, Unreachable, EngineFailed, ContextExceeded, ModelNotFound)  # another node may do better
NOBODY = Answer(model="", served_by="", path=(), rung="", trust="", tier=0)


class Choose(Protocol):
    """The step that decides: see `meshnode.serve.choose`."""

    async def __call__(self, job: Job) -> tuple[Candidate, ...]:
        """Candidates, best first, at least one; raises ModelNotFound or NoCandidate."""
        ...


RunOn = Callable[[Candidate, Job], AbstractAsyncContextManager[AsyncIterator[Emitted]]]


class Walk:
    """Takes a Job in and gives Pieces out, wherever they are made."""

    def __init__(
        self,
        admission: Admission,
        choose: Choose,
        run_on: RunOn,
        answer_for: Callable[[Candidate], Answer],
    ) -> None:
        self._admission = admission
        self._choose = choose
        self._run_on = run_on
        self._answer_for = answer_for

    @asynccontextmanager
    async def ask(self, job: Job) -> AsyncIterator[Running]:
        """Run a job at the best place; leaving the context cancels it wherever it runs.

        Raises MeshError on entering while nothing was emitted; later failures come out of the iterator.
        """
        trial = Trial(job, trio.current_time() + job.deadline_ms / 1000)
        with self._admission.place():
            while trial.goes_on:
                async with AsyncExitStack() as attempt:
                    waiting = attempt.enter_context(trio.CancelScope(deadline=trial.deadline))
                    running = await self._attempt(trial, attempt)
                    waiting.deadline = math.inf  # from here on only the wait for the next piece is bounded
                    if running is not None and not waiting.cancel_called:
                        yield running
                        return
                if waiting.cancel_called:  # perhaps in the very moment of the first piece
                    raise _too_late(job)
            raise trial.verdict()

    async def _attempt(self, trial: "Trial", attempt: AsyncExitStack) -> Running | None:
        """Run the job on the next candidate until it says something; else None, and why in `trial.failure`."""
        candidate = await self._next_candidate(trial)
        if candidate is None:
            return None
        answer = msgspec.structs.replace(self._answer_for(candidate), attempts=trial.attempts)
        trial.on(answer)
        try:
            source = await attempt.enter_async_context(self._run_on(candidate, trial.job_with_time_left()))
            async for emitted in source:
                if not trial.holds_back(emitted):
                    trial.begun = True
                    return Running(answer, _Pieces(emitted, source, trial))
        except MeshError as error:
            trial.failure = error
        return None

    async def _next_candidate(self, trial: "Trial") -> Candidate | None:
        """The best candidate not tried yet, chosen anew if the last was lost; None, and why in `trial.failure`."""
        if not trial.candidates and not trial.chosen_enough:
            await trio.sleep(AGAIN_S * trial.choices)
            trial.choices += 1
            try:
                trial.candidates = deque(await self._choose(trial.job))
            except MeshError as error:
                trial.failure, trial.exhausted = trial.failure or error, True
                return None
        if not trial.candidates or trial.attempts == ATTEMPTS:
            trial.exhausted = True
            return None
        trial.attempts += 1
        return trial.candidates.popleft()


class Trial:
    """What has been tried for one request until its deadline (trio's time), and whether to try on."""

    def __init__(self, job: Job, deadline: float) -> None:
        self.job = job
        self.deadline = deadline
        self.candidates: deque[Candidate] = deque()  # not tried yet
        self.choices = 0
        self.attempts = 0
        self.exhausted = False
        self.answer = NOBODY
        self.begun = False
        self.failure: MeshError | None = None
        self._since = 0.0

    @property
    def chosen_enough(self) -> bool:
        """Whether choosing again is vain: it is unless a link was lost, for then there may be another by now."""
        return self.choices > 0 and not isinstance(self.failure, Unreachable)

    @property
    def goes_on(self) -> bool:
        """Only while somebody is left, and not when the request itself is at fault."""
        return not self.exhausted and (self.failure is None or isinstance(self.failure, ELSEWHERE))

    def on(self, answer: Answer) -> None:
        """The next attempt, whose provenance would be `answer`."""
        self.answer, self.failure, self._since = answer, None, trio.current_time()

    def job_with_time_left(self) -> Job:
        """The job with the milliseconds that are left for it."""
        left_ms = max(1, int((self.deadline - trio.current_time()) * 1000))
        return msgspec.structs.replace(self.job, deadline_ms=left_ms)

    def holds_back(self, emitted: Emitted) -> bool:
        """Whether to keep quiet about progress: once a client has heard who serves it, nobody else can."""
        early = trio.current_time() < self._since + SILENCE_S
        return isinstance(emitted, Progress) and not self.begun and early

    def verdict(self) -> MeshError:
        """The one error the client gets; a node that was lost and one that crashed are alike to it."""
        failure = self.failure or EngineFailed("The engine stopped without ending the answer.")
        if self.begun and isinstance(failure, Unreachable | EngineFailed):
            return Interrupted(
                f"The answer broke off: {failure.message}",
                hint=f"It was served by {self.answer.served_by}; ask again to have it served elsewhere.",
            )
        return failure


class _Pieces(AsyncIterator[Emitted]):
    """What a run emits from its first item on, each in time; a failure is the one that the client gets."""

    def __init__(self, first: Emitted, source: AsyncIterator[Emitted], trial: Trial) -> None:
        self._first: Emitted | None = first
        self._source = source
        self._trial = trial
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
        self._over = isinstance(item, End)
        return item

    async def _next(self) -> Emitted:
        trial = self._trial
        if trio.current_time() < trial.deadline:
            with trio.CancelScope(deadline=trial.deadline):
                try:
                    return await anext(self._source)
                except MeshError as error:
                    trial.failure = error
                except StopAsyncIteration:
                    pass
                raise trial.verdict()
        raise _too_late(trial.job)


def _too_late(job: Job) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"The request's deadline of {job.deadline_ms / 1000:g} s has passed.",
        hint="Allow more time with mesh.deadline_ms, or ask for fewer tokens.",
    )
