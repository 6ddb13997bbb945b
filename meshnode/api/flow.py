"""Runs as a flow of items: who serves each, what comes out, and what went wrong, all through one channel.

The tasks that run and the task that writes to the client are apart, so that a slow client, a silence and a
shutdown can each be told apart. It knows no HTTP.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from meshnode.api.doors import Doors
from meshnode.errors import Interrupted, MeshError, as_mesh_error
from meshnode.observe import log
from meshnode.terms import Answer, Emitted, End, Job

Item = Answer | Emitted | MeshError

RETRY_AFTER_SHUTDOWN_S = 5.0

_logger = log.get("api")


class Flowing(NamedTuple):
    """One item, and the number of the job that it belongs to."""

    choice: int
    item: Item


Items = trio.MemoryReceiveChannel[Flowing]


@asynccontextmanager
async def flowing(doors: Doors, jobs: Sequence[Job], closing: trio.Event | None) -> AsyncIterator[Items]:
    """Run the jobs side by side; for each the channel gives an Answer, what is emitted, and an End.

    A MeshError in any of them is for all, and nothing that comes after it counts. Leaving before the last End
    cancels what still runs. When `closing` is set, the next item is an Interrupted.
    """
    send, receive = trio.open_memory_channel[Flowing](0)
    runs = [_Run(doors, job, choice, send.clone()) for choice, job in enumerate(jobs)]
    async with trio.open_nursery() as watchers, receive:
        watchers.start_soon(_announce_closing, send, closing)
        async with trio.open_nursery() as runner:
            for run in runs:
                runner.start_soon(run.pump)
            yield receive
            if not all(run.ended for run in runs):
                runner.cancel_scope.cancel()
        watchers.cancel_scope.cancel()


class _Run:
    """The pump from the node into the channel; `ended` once the End is on its way."""

    def __init__(self, doors: Doors, job: Job, choice: int, out: trio.MemorySendChannel[Flowing]) -> None:
        self._doors = doors
        self._job = job
        self._choice = choice
        self._out = out
        self.ended = False

    async def pump(self) -> None:
        async with self._out:
            try:
                await self._run()
            except Exception as error:
                known = as_mesh_error(error)
                if known is None:
                    _logger.exception("request failed", request=self._job.id)
                    known = MeshError("Something went wrong inside the node.", hint=f"See {log.FILE_NAME}.")
                if not self.ended:
                    await self._put(known)

    async def _run(self) -> None:
        async with self._doors.ask(self._job) as running:
            await self._put(running.answer)
            async for item in running.pieces:
                if not self.ended:  # after the End the source may only finish
                    self.ended = isinstance(item, End)
                    await self._put(item)
        if not self.ended:
            raise Interrupted("The answer broke off before its end.")

    async def _put(self, item: Item) -> None:
        await self._out.send(Flowing(self._choice, item))


async def _announce_closing(out: trio.MemorySendChannel[Flowing], closing: trio.Event | None) -> None:
    async with out:
        if closing is None:
            return
        await closing.wait()
        await out.send(
            Flowing(0, Interrupted("The node is shutting down.", retry_after_s=RETRY_AFTER_SHUTDOWN_S))
        )
