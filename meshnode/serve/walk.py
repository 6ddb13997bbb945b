"""The walk of one request: admit, choose, run, and try elsewhere while nothing has been said yet.

It knows no sockets and no HTTP. Exactly one terminal event comes out: an End, or one MeshError.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
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

ATTEMPTS = 3  # the first choice and at most two alternates
SILENCE_S = 5.0  # how long an attempt may read the prompt before its progress, and so its place, is told
ELSEWHERE = (Busy, Unreachable, EngineFailed, ContextExceeded, ModelNotFound)  # another node may do better
NOBODY = Answer(model="", served_by="", path=(), rung="", trust="", tier=0)
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
        send, receive = trio.open_memory_channel[Item](0)
        failure: Exception | None = None
        with self._admission.place(), receive:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, job, send)
                try:
                    async with aclosing(_pieces(receive)) as pieces:
                        yield Running(await _answer(receive), pieces)
                except Exception as error:  # noqa: BLE001 - raised below: a nursery would wrap it in a group
                    failure = error
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _serve(self, job: Job, out: trio.MemorySendChannel[Item]) -> None:
        """Put out the answer's provenance, its pieces, and one terminal item: an End, or else an error.

        An error travels as an item, not as an exception: raised in this task, it would cancel the consumer in
        the middle of writing a piece to its client.
        """
        deadline = trio.current_time() + job.deadline_ms / 1000
        trial = Trial()
        with out:
            with trio.move_on_at(deadline) as scope:
                while trial.goes_on and (candidate := await self._next_candidate(job, trial)):
                    answer = msgspec.structs.replace(self._answer_for(candidate), attempts=trial.attempts)
                    await self._attempt(candidate, _with_time_left(job, deadline), trial.on(answer), out)
            if not trial.ended:
                await out.send(_too_late(job) if scope.cancelled_caught else trial.verdict())

    async def _attempt(
        self, candidate: Candidate, job: Job, trial: "Trial", out: trio.MemorySendChannel[Item]
    ) -> None:
        """Run the job on one candidate; what went wrong is in `trial.failure`."""
        try:
            async with self._run_on(candidate, job) as pieces:
                async for emitted in pieces:
                    if trial.holds_back(emitted):
                        continue
                    if trial.begin():
                        await out.send(trial.answer)
                    await out.send(emitted)
                    if isinstance(emitted, End):
                        trial.ended = True
                        return
        except MeshError as error:
            trial.failure = error

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
        self.answer = NOBODY
        self.begun = False
        self.ended = False
        self.failure: MeshError | None = None
        self._since = 0.0

    @property
    def goes_on(self) -> bool:
        """Only before the first piece, and not when the request itself is at fault."""
        return not (self.begun or self.ended) and (
            self.failure is None or isinstance(self.failure, ELSEWHERE)
        )

    def on(self, answer: Answer) -> "Trial":
        """The next attempt, whose provenance would be `answer`."""
        self.answer, self.failure, self._since = answer, None, trio.current_time()
        return self

    def holds_back(self, emitted: Emitted) -> bool:
        """Whether to keep quiet about progress: once a client has heard who serves it, nobody else can."""
        early = trio.current_time() < self._since + SILENCE_S
        return isinstance(emitted, Progress) and not self.begun and early

    def begin(self) -> bool:
        """Note that the answer has begun; True the first time."""
        first, self.begun = not self.begun, True
        return first

    def verdict(self) -> MeshError:
        """The one error the client gets; a node that was lost and one that crashed are alike to it."""
        failure = self.failure or EngineFailed("The engine stopped without ending the answer.")
        if self.begun and isinstance(failure, Unreachable | EngineFailed):
            return Interrupted(
                f"The answer broke off: {failure.message}",
                hint=f"It was served by {self.answer.served_by}; ask again to have it served elsewhere.",
            )
        return failure


async def _answer(items: trio.MemoryReceiveChannel[Item]) -> Answer:
    """The first item; an error in its place is raised."""
    item = await items.receive()
    if isinstance(item, MeshError):
        raise item
    assert isinstance(item, Answer)
    return item


async def _pieces(items: trio.MemoryReceiveChannel[Item]) -> AsyncGenerator[Emitted, None]:
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
