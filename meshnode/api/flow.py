"""Runs as a flow of items: who serves each, what comes out, and what went wrong. It knows no HTTP.

One run is taken from in the task that writes to the client; several come side by side through one channel.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import trio

from meshnode.api.doors import Doors
from meshnode.errors import Interrupted, MeshError, as_mesh_error
from meshnode.observe import log
from meshnode.terms import Answer, Emitted, End, Job

Item = Answer | Emitted | MeshError

_logger = log.get("api")


class Flowing(NamedTuple):
    """One item, and the number of the job that it belongs to."""

    choice: int
    item: Item


Items = AsyncIterator[Flowing]


@asynccontextmanager
async def flowing(doors: Doors, jobs: Sequence[Job]) -> AsyncIterator[Items]:
    """Run the jobs side by side; for each there is an Answer, what is emitted, and an End.

    A MeshError in any of them is for all, and nothing that comes after it counts. Leaving before the last End
    cancels what still runs.
    """
    if len(jobs) == 1:
        async with AsyncExitStack() as stack:
            run = _Run(jobs[0])
            await run.begin(doors, stack)
            yield run
    else:
        async with _together(doors, jobs) as items:
            yield items


@asynccontextmanager
async def _together(doors: Doors, jobs: Sequence[Job]) -> AsyncIterator[Items]:
    send, receive = trio.open_memory_channel[Flowing](0)
    async with trio.open_nursery() as nursery, receive:
        with send:
            for choice, job in enumerate(jobs):
                nursery.start_soon(_pump, doors, job, choice, send.clone())
        yield receive
        nursery.cancel_scope.cancel()


async def _pump(doors: Doors, job: Job, choice: int, out: trio.MemorySendChannel[Flowing]) -> None:
    async with out, AsyncExitStack() as stack:
        run = _Run(job, choice)
        await run.begin(doors, stack)
        async for flowing_item in run:
            await out.send(flowing_item)


class _Run(Items):
    """One job's items, to an End or a MeshError."""

    def __init__(self, job: Job, choice: int = 0) -> None:
        self._job = job
        self._choice = choice
        self._begun: Answer | MeshError | None = None
        self._pieces: AsyncIterator[Emitted] | None = None
        self._over = False

    async def begin(self, doors: Doors, stack: AsyncExitStack) -> None:
        """Find a place for it; what went wrong is its first item."""
        try:
            running = await stack.enter_async_context(doors.ask(self._job))
        except Exception as error:  # noqa: BLE001 - told to the client, and logged if it is not known
            self._begun = self._known(error)
        else:
            self._begun, self._pieces = running.answer, running.pieces

    async def __anext__(self) -> Flowing:
        """The next item; nothing comes after the End."""
        if self._over:
            raise StopAsyncIteration
        item: Item | None
        item, self._begun = self._begun, None
        if item is None:
            item = await self._next()
        self._over = isinstance(item, End | MeshError)
        return Flowing(self._choice, item)

    async def _next(self) -> Item:
        assert self._pieces is not None
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            return Interrupted("The answer broke off before its end.")
        except Exception as error:  # noqa: BLE001 - told to the client, and logged if it is not known
            return self._known(error)

    def _known(self, error: Exception) -> MeshError:
        known = as_mesh_error(error)
        if known is None:
            _logger.error("request failed", request=self._job.id, exc_info=error)
            known = MeshError("Something went wrong inside the node.", hint=f"See {log.FILE_NAME}.")
        return known
