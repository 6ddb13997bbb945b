"""Where the answer to one request is made now, and how it gets on from there when a way or a node is lost.

A way that falls silent is not lost yet: while it may be heard again, the rest is looked for over another way to the
same run, then elsewhere, and what speaks first goes on. It knows neither links nor sockets.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

import msgspec
import trio

from meshnode.errors import EngineFailed, MeshError, Yielded
from meshnode.serve.running import Distant, LinkLost, Silent
from meshnode.serve.trial import GOES_ON, NO_END, Trial
from meshnode.terms import Answer, Candidate, Emitted, Job
from meshwire.limits import REPLAY_S

AGAIN_S = 0.25  # before choosing again, twice that before the next time: a node that is back needs a moment
RETURN_S = REPLAY_S  # for a way back to a run: it is not kept for longer
HEAD_START_S = 0.75  # that a way back has before the rest is looked for elsewhere: nothing is computed twice
RunOn = Callable[[Candidate, Job], AbstractAsyncContextManager[AsyncIterator[Emitted]]]
Found = tuple[Candidate, AsyncIterator[Emitted], Emitted]  # where, what comes from there, and its first item


class Choose(Protocol):
    """The step that decides: see `meshnode.serve.choose`."""

    def __call__(self, job: Job) -> Awaitable[tuple[Candidate, ...]]:
        """Candidates, best first, at least one; raises ModelNotFound or NoCandidate."""
        ...


class Course:
    """The run of one request, or what came in its place. Whoever made it closes it.

    Runs are entered and left here in whatever scope their next item is waited for. Those of engines that know token
    ids, and of links, hold no cancel scope, so they may outlive it.
    """

    def __init__(
        self, trial: Trial, choose: Choose, run_on: RunOn, answer_for: Callable[[Candidate], Answer]
    ) -> None:
        self._trial = trial
        self._choose = choose
        self._run_on = run_on
        self._answer_for = answer_for
        self._run = AsyncExitStack()
        self._source: AsyncIterator[Emitted] | None = None

    async def begin(self, candidate: Candidate) -> None:
        """Run what is left of the job on a candidate, in place of what ran before; raises MeshError."""
        await self.aclose()
        job = self._trial.job_left()
        self._is_on(candidate)
        self._source = await self._run.enter_async_context(self._run_on(candidate, job))

    async def adopt(self, candidate: Candidate, run: AsyncExitStack, source: AsyncIterator[Emitted]) -> None:
        """Go on with a run that was entered elsewhere, in place of what ran before, which is left."""
        await self.aclose()
        self._run.push_async_exit(run.pop_all())
        self._is_on(candidate)
        self._source = source

    async def aclose(self) -> None:
        """Leave the run."""
        self._source = None
        await self._run.aclose()

    def _is_on(self, candidate: Candidate) -> None:
        answer = self._answer_for(candidate)
        self._trial.on(candidate, msgspec.structs.replace(answer, attempts=self._trial.attempts))

    async def next(self) -> Emitted | None:
        """The next item of the run; None, and why in the trial, if it broke off."""
        while self._source is not None:
            try:
                return await anext(self._source)
            except (Silent, LinkLost) as error:
                returns = self._trial.returns
                if (item := await self._look_around(self._source)) is not None:
                    return item
                if isinstance(error, LinkLost) and self._trial.returns == returns:
                    self._trial.failure = error
                    break
            except MeshError as error:
                self._trial.note_failure(error)
                break
            except StopAsyncIteration:
                self._trial.note_failure(EngineFailed(NO_END))
                break
        return None

    async def go_on(self) -> bool:
        """Go on with an answer that broke off, at another node or over another way to the same; False if vain."""
        trial = self._trial
        while trial.can_go_on:
            attempts = trial.attempts
            trial.count_try()
            await trio.sleep(AGAIN_S * trial.losses)
            trial.losses += 1
            try:
                candidate = trial.best_of_rest(await self._choose(trial.job_left()))
                if candidate.node == trial.node and await self._is_back():
                    trial.attempts = attempts
                else:
                    await self.begin(candidate)
            except MeshError as error:
                trial.failure = error if isinstance(error, GOES_ON) else trial.failure
            else:
                return True
        return False

    async def _is_back(self) -> bool:
        """Whether the run, which is at another node, goes on over another way."""
        if not isinstance(self._source, Distant) or not self._trial.may_return:
            return False
        if isinstance(self._trial.failure, Yielded):
            return False  # it is over there, and not because of the way
        with trio.move_on_after(RETURN_S):
            try:
                await self._source.reattach()
            except MeshError:
                return False
            self._trial.returns += 1
            return True
        return False

    # --- While it is not known whether the run can be reached again ---

    async def _look_around(self, source: AsyncIterator[Emitted]) -> Emitted | None:
        """The first item from elsewhere; None if the run is heard again, by this way or another, or if nobody
        can go on.
        """
        found: Found | None = None
        spare, tried = AsyncExitStack(), trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_heard, source, nursery.cancel_scope)
                nursery.start_soon(self._come_back, nursery.cancel_scope, tried)
                found = await self._found_elsewhere(spare, tried)
                if found is None:
                    await tried.wait()
                nursery.cancel_scope.cancel()
            if found is None:
                return None
            candidate, another, item = found
            self._trial.attempts += 1
            await self.adopt(candidate, spare, another)
            return item
        finally:
            await spare.aclose()

    async def _come_back(self, scope: trio.CancelScope, tried: trio.Event) -> None:
        """Look for another way to the run; end `scope` when it goes on over that."""
        if await self._is_back():
            scope.cancel()
        tried.set()

    async def _found_elsewhere(self, spare: AsyncExitStack, tried: trio.Event) -> Found | None:
        """A run of what is left at another node, entered into `spare`, once something comes from it."""
        with trio.move_on_after(HEAD_START_S):
            await tried.wait()
        if not self._trial.may_look:
            return None
        try:
            candidate = self._trial.elsewhere(await self._choose(self._trial.job_left()))
            if candidate is None:
                return None
            self._trial.looks += 1
            run = self._run_on(candidate, self._trial.job_left())
            another = await spare.enter_async_context(run)
            return candidate, another, await anext(another)
        except (MeshError, StopAsyncIteration):
            return None


async def _cancel_when_heard(source: AsyncIterator[Emitted], scope: trio.CancelScope) -> None:
    if isinstance(source, Distant):
        await source.heard()
        scope.cancel()
