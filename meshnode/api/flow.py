"""One run as a flow of items: who serves it, what comes out, and what went wrong, all through one channel.

The task that runs and the task that writes to the client are two, so that a slow client, a silence and a
shutdown can each be told apart. It knows no HTTP.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from meshnode.api.doors import Doors
from meshnode.errors import Interrupted, MeshError, as_mesh_error
from meshnode.observe import log
from meshnode.terms import Answer, Emitted, End, Job

Item = Answer | Emitted | MeshError

RETRY_AFTER_SHUTDOWN_S = 5.0

_logger = log.get("api")


@asynccontextmanager
async def flowing(
    doors: Doors, job: Job, closing: trio.Event | None
) -> AsyncIterator[trio.MemoryReceiveChannel[Item]]:
    """Run the job; the channel gives an Answer, what is emitted, and as the last item an End or a MeshError.

    Leaving before the End cancels the run. When `closing` is set, the next item is an Interrupted.
    """
    send, receive = trio.open_memory_channel[Item](0)
    run = _Run(doors, job, send)
    async with trio.open_nursery() as watchers, receive:
        watchers.start_soon(_announce_closing, send.clone(), closing)
        async with trio.open_nursery() as runner:
            runner.start_soon(run.pump)
            yield receive
            if not run.ended:
                runner.cancel_scope.cancel()
        watchers.cancel_scope.cancel()


class _Run:
    """The pump from the node into the channel; `ended` once the End is on its way."""

    def __init__(self, doors: Doors, job: Job, out: trio.MemorySendChannel[Item]) -> None:
        self._doors = doors
        self._job = job
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
                    await self._out.send(known)

    async def _run(self) -> None:
        async with self._doors.ask(self._job) as running:
            await self._out.send(running.answer)
            async for item in running.pieces:
                if not self.ended:  # after the End the source may only finish
                    self.ended = isinstance(item, End)
                    await self._out.send(item)
        if not self.ended:
            raise Interrupted("The answer broke off before its end.")


async def _announce_closing(out: trio.MemorySendChannel[Item], closing: trio.Event | None) -> None:
    async with out:
        if closing is None:
            return
        await closing.wait()
        await out.send(Interrupted("The node is shutting down.", retry_after_s=RETRY_AFTER_SHUTDOWN_S))
