"""The walk of one request: admit, choose, run, and try elsewhere while nothing has been said yet.

It knows no sockets and no HTTP. Exactly one terminal event comes out: an End, or one MeshError.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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
    Unreachable,
)
from meshnode.serve.admit import Admission
from meshnode.serve.running import Running
from meshnode.terms import Answer, Candidate, Emitted, End, Job

ATTEMPTS = 3  # the first choice and at most two alternates
Item = Answer | Emitted | MeshError


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
        with self._admission.place():
            async with self._emit(job) as items:
                answer = await anext(items)
                if isinstance(answer, MeshError):
                    raise answer
                assert isinstance(answer, Answer)
                yield Running(answer, _pieces(items))

    @trio.as_safe_channel
    async def _emit(self, job: Job) -> AsyncGenerator[Item, None]:
        """The answer's provenance, its pieces, and an error as the last item if it failed.

        An error travels as an item, not as an exception: raised in the background task, it would cancel the
        consumer in the middle of writing a piece to its client.
        """
        deadline = trio.current_time() + job.deadline_ms / 1000
        trial = Trial()
        with trio.move_on_at(deadline) as scope:
            while trial.goes_on and (candidate := await self._next_candidate(job, trial)):
                answer = msgspec.structs.replace(self._answer_for(candidate), attempts=trial.attempts)
                try:
                    async with self._run_on(candidate, _with_time_left(job, deadline)) as pieces:
                        async for emitted in pieces:
                            if trial.begin(answer):
                                yield answer
                            trial.ended = isinstance(emitted, End)
                            yield emitted
                except MeshError as error:
                    trial.failure = error
        if scope.cancelled_caught:
            yield _too_late(job)
        elif not trial.ended:
            yield trial.verdict()

    async def _next_candidate(self, job: Job, trial: "Trial") -> Candidate | None:
        """The best candidate not tried yet; None when there is none, with the reason in `trial.failure`."""
        if trial.candidates is None:
            try:
                trial.candidates = await self._choose(job)
            except MeshError as error:
                trial.failure = error
                return None
        if trial.attempts == min(len(trial.candidates), ATTEMPTS):
            return None
        trial.attempts += 1
        return trial.candidates[trial.attempts - 1]


class Trial:
    """What has been tried for one request, and whether trying on makes sense."""

    def __init__(self) -> None:
        self.candidates: tuple[Candidate, ...] | None = None
        self.attempts = 0
        self.begun: Answer | None = None
        self.ended = False
        self.failure: MeshError | None = None

    @property
    def goes_on(self) -> bool:
        """Only before the first piece, and not when the request itself is at fault."""
        retryable = isinstance(self.failure, Busy | Unreachable | EngineFailed | ContextExceeded | None)
        return self.begun is None and retryable

    def begin(self, answer: Answer) -> bool:
        """Note that the answer has begun; True the first time."""
        first = self.begun is None
        self.begun = answer
        return first

    def verdict(self) -> MeshError:
        """The one error the client gets; a node that was lost and one that crashed are alike to it."""
        failure = self.failure or EngineFailed("The engine stopped without ending the answer.")
        if self.begun and isinstance(failure, Unreachable | EngineFailed):
            return Interrupted(
                f"The answer broke off: {failure.message}",
                hint=f"It was served by {self.begun.served_by}; ask again to have it served elsewhere.",
            )
        return failure


async def _pieces(items: AsyncIterator[Item]) -> AsyncIterator[Emitted]:
    """The items after the answer; an error among them is raised."""
    async for item in items:
        if isinstance(item, MeshError):
            raise item
        assert not isinstance(item, Answer)
        yield item


def _with_time_left(job: Job, deadline: float) -> Job:
    """The job with the milliseconds that are left for it."""
    left_ms = max(1, int((deadline - trio.current_time()) * 1000))
    return msgspec.structs.replace(job, deadline_ms=left_ms)


def _too_late(job: Job) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"The request's deadline of {job.deadline_ms / 1000:g} s has passed.",
        hint="Allow more time with mesh.deadline_ms, or ask for fewer tokens.",
    )
