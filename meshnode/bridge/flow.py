"""One request inside the node's thread: a task that runs it, and what has come of it, for another thread to take.

The whole run belongs to one task, as it may hold cancel scopes; what comes waits in a bounded channel.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from meshnode.errors import Interrupted
from meshnode.serve.running import Running
from meshnode.terms import Answer, Emitted

WAITING_ITEMS = 64  # before the run waits for whoever takes them


class Flow:
    """A request that runs while `serve` does. Only one task at a time takes from it."""

    def __init__(self, run: Callable[[], AbstractAsyncContextManager[Running]]) -> None:
        self._run = run
        self._scope = trio.CancelScope()
        self._begun, self._over = trio.Event(), trio.Event()
        self._send, self._receive = trio.open_memory_channel[Emitted](WAITING_ITEMS)
        self._answer: Answer | None = None
        self._failure: Exception | None = None

    async def serve(self) -> None:
        """Run it to its end; what goes wrong is told to whoever takes."""
        try:
            with self._scope:
                async with self._run() as running:
                    self._answer = running.answer
                    self._begun.set()
                    async for item in running.pieces:
                        await self._send.send(item)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            self._failure = error
        finally:
            self._begun.set()
            self._send.close()
            self._over.set()

    async def begun(self) -> Answer:
        """Who serves it, once that is known; raises why it could not begin."""
        await self._begun.wait()
        if self._answer is None:
            raise self._failure or Interrupted("The request was closed before it began.")
        return self._answer

    async def take(self) -> list[Emitted]:
        """What has come since the last time, at least one item; nothing once it is over. Raises as the run does."""
        try:
            items = [await self._receive.receive()]
        except trio.EndOfChannel:
            if self._failure is not None:
                raise self._failure from None
            return []
        while self._receive.statistics().current_buffer_used:
            items.append(self._receive.receive_nowait())
        return items

    async def close(self) -> None:
        """Cancel it wherever it runs; returns once it has been left."""
        self._scope.cancel()
        await self._over.wait()
