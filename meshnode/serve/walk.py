"""The walk of one request: admit, choose, run; try elsewhere before the first piece, and go on elsewhere after it.

An answer whose node or link is lost goes on from the ids of its tokens, at a node with the very same weights. It
knows no sockets and no HTTP. Exactly one terminal event comes out: an End, or one MeshError.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
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
from meshnode.terms import Answer, Candidate, Emitted, End, Job, Piece, Progress, Vector
from meshnode.terms.job import RESUME_MAX_TOKENS

ATTEMPTS = 3  # the first choice and at most two more
AGAIN_S = 0.25  # before choosing again, twice that before the next time: a node that is back needs a moment
SILENCE_S = 5.0  # how long an attempt may read the prompt before its progress, and so its place, is told
ELSEWHERE = (Busy, Unreachable, EngineFailed, ContextExceeded, ModelNotFound)  # another node may do better
GOES_ON = (
    Unreachable,
    EngineFailed,
    Interrupted,
)  # a node or the way to it is lost, the request is not at fault
NO_END = "The engine stopped without ending the answer."
NOBODY = Answer(model="", served_by="", path=(), rung="", trust="", tier=0)


class Choose(Protocol):
    """The step that decides: see `meshnode.serve.choose`."""

    async def __call__(self, job: Job) -> tuple[Candidate, ...]:
        """Candidates, best first, at least one; raises ModelNotFound or NoCandidate."""
        ...


GoOn = Callable[[], Awaitable[AsyncIterator[Emitted] | None]]
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
                    run = await attempt.enter_async_context(AsyncExitStack())
                    running = await self._attempt(trial, run)
                    waiting.deadline = math.inf  # from here on only the wait for the next piece is bounded
                    if running is not None and not waiting.cancel_called:
                        yield running
                        return
                if waiting.cancel_called:  # perhaps in the very moment of the first piece
                    raise _too_late(job)
            raise trial.verdict()

    async def _attempt(self, trial: "Trial", run: AsyncExitStack) -> Running | None:
        """Run the job on the next candidate until it says something; else None, and why in `trial.failure`."""
        candidate = await self._next_candidate(trial)
        if candidate is None:
            return None
        trial.failure = None
        try:
            source = await self._run(trial, candidate, run)
            async for emitted in source:
                if not trial.holds_back(emitted):
                    trial.begun = True
                    go_on = partial(self._go_on, trial, run)
                    return Running(trial.answer, _Pieces(emitted, source, trial, go_on))
        except MeshError as error:
            trial.failure = error
        return None

    async def _run(self, trial: "Trial", candidate: Candidate, run: AsyncExitStack) -> AsyncIterator[Emitted]:
        """Run what is left of the job on a candidate, until `run` is closed."""
        trial.on(candidate, msgspec.structs.replace(self._answer_for(candidate), attempts=trial.attempts))
        return await run.enter_async_context(self._run_on(candidate, trial.job_left()))

    async def _go_on(self, trial: "Trial", run: AsyncExitStack) -> AsyncIterator[Emitted] | None:
        """The rest of an answer that broke off, from another node or another way to the same; None if vain.

        The runs that are left and entered here are those of engines that know token ids, and of links: they hold
        no cancel scope, so they may outlive the wait for the next piece in which this happens.
        """
        while trial.can_go_on:
            await run.aclose()
            trial.attempts += 1
            await trio.sleep(AGAIN_S * trial.losses)
            trial.losses += 1
            try:
                candidates = await self._choose(trial.job_left())
                return await self._run(trial, trial.best_of_rest(candidates), run)
            except MeshError as error:
                trial.failure = error if isinstance(error, GOES_ON) else trial.failure
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
        self.losses = 0
        self.failure: MeshError | None = None
        self._since = 0.0
        self._node = b""
        self._digest = b""
        self._ids: list[int] = list(job.resume)
        self._has_ids = not job.inputs

    @property
    def chosen_enough(self) -> bool:
        """Whether choosing again is vain: it is unless a link was lost, for then there may be another by now."""
        return self.choices > 0 and not isinstance(self.failure, Unreachable)

    @property
    def goes_on(self) -> bool:
        """Only while somebody is left, and not when the request itself is at fault."""
        return not self.exhausted and (self.failure is None or isinstance(self.failure, ELSEWHERE))

    @property
    def can_go_on(self) -> bool:
        """Whether an answer that broke off may go on: its tokens are known, and it was not the request's fault."""
        known = self._has_ids and len(self._ids) <= RESUME_MAX_TOKENS
        return known and self.attempts < ATTEMPTS and isinstance(self.failure, GOES_ON)

    def on(self, candidate: Candidate, answer: Answer) -> None:
        """The next attempt, whose provenance would be `answer`."""
        self.answer, self._since = answer, trio.current_time()
        self._node, self._digest = candidate.node, candidate.card.digest

    def note(self, emitted: Emitted) -> None:
        """This has been told to the client."""
        if isinstance(emitted, Piece):
            self._has_ids = self._has_ids and bool(emitted.ids) and emitted.first_index == len(self._ids)
            self._ids += emitted.ids
        self._has_ids = self._has_ids and not isinstance(emitted, Vector)

    def job_left(self) -> Job:
        """What is left of the job, within the time that is left; once begun, on the very same weights."""
        left_ms = max(1, int((self.deadline - trio.current_time()) * 1000))
        job = msgspec.structs.replace(self.job, deadline_ms=left_ms)
        if not self.begun:
            return job
        wish = msgspec.structs.replace(job.wish, model=f"sha256:{self._digest.hex()}")
        return msgspec.structs.replace(job, wish=wish, resume=tuple(self._ids))

    def best_of_rest(self, candidates: Sequence[Candidate]) -> Candidate:
        """The best that is not where it just broke off, if there is one."""
        return next((one for one in candidates if one.node != self._node), candidates[0])

    def holds_back(self, emitted: Emitted) -> bool:
        """Whether to keep quiet about progress: once a client has heard who serves it, nobody else can."""
        early = trio.current_time() < self._since + SILENCE_S
        return isinstance(emitted, Progress) and not self.begun and early

    def verdict(self) -> MeshError:
        """The one error the client gets; a node that was lost and one that crashed are alike to it."""
        failure = self.failure or EngineFailed(NO_END)
        if self.begun and isinstance(failure, Unreachable | EngineFailed):
            return Interrupted(
                f"The answer broke off and could not go on elsewhere: {failure.message}",
                hint=f"It was served by {self.answer.served_by}; ask again to have it served elsewhere.",
            )
        return failure


class _Pieces(AsyncIterator[Emitted]):
    """What a run emits from its first item on, each in time; a failure is the one that the client gets.

    `go_on` gives the rest of an answer that broke off, if there is a place for it.
    """

    def __init__(self, first: Emitted, source: AsyncIterator[Emitted], trial: Trial, go_on: GoOn) -> None:
        self._first: Emitted | None = first
        self._source = source
        self._trial = trial
        self._go_on = go_on
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
        return item

    async def _next(self) -> Emitted:
        if trio.current_time() < self._trial.deadline:
            with trio.CancelScope(deadline=self._trial.deadline):
                while (item := await self._of_source()) is None:
                    source = await self._go_on()
                    if source is None:
                        raise self._trial.verdict()
                    self._source = source
                return item
        raise _too_late(self._trial.job)

    async def _of_source(self) -> Emitted | None:
        """The next item from where the answer is made now; None, and why in the trial, if it broke off."""
        try:
            return await anext(self._source)
        except MeshError as error:
            self._trial.failure = error
        except StopAsyncIteration:
            self._trial.failure = EngineFailed(NO_END)
        return None


def _too_late(job: Job) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"The request's deadline of {job.deadline_ms / 1000:g} s has passed.",
        hint="Allow more time with mesh.deadline_ms, or ask for fewer tokens.",
    )
