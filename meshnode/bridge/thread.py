"""A node in a thread of its own, and calls into it from others. It knows nothing of what is called.

Exceptions cross as they are. A call whose future is cancelled is cancelled in the node's thread too, and the end of
the node cancels whatever it still does.
"""

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import trio

from meshnode.errors import NotRunning
from meshnode.node.node import Node

T = TypeVar("T")
Opening = Callable[[], AbstractAsyncContextManager[Node]]


class NodeThread:
    """One node, from `start` to `stop`; both return at once, and `ready` and `ended` tell when it has happened.

    `ready` gives the node, or why it could not be opened; `ended` fails with what has ended the node, if nobody
    wanted that.
    """

    def __init__(self, opening: Opening) -> None:
        self.ready: Future[Node] = Future()
        self.ended: Future[None] = Future()
        self._opening = opening
        self._scope = trio.CancelScope()
        self._token: Future[trio.lowlevel.TrioToken] = Future()
        self._nursery: trio.Nursery | None = None
        self._thread = threading.Thread(target=self._main, name="meshnode")
        self.stopping = False  # because somebody wants it
        for future in (self.ready, self.ended):
            future.set_running_or_notify_cancel()  # who stops waiting for them changes nothing

    def start(self) -> None:
        """Begin to open the node."""
        self._thread.start()

    def stop(self) -> None:
        """Begin to close it, or give its opening up; doing it again does no harm."""
        self.stopping = True
        self._soon(self._scope.cancel)

    def join(self) -> BaseException | None:
        """Wait until the node has ended and its thread is gone; what it had ended with."""
        failure = self.ended.exception()
        self._thread.join()  # what it still had to do takes no time
        return failure

    def submit(self, call: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Run an async function in the node's thread; raises NotRunning once the node is being closed.

        In the node's thread itself it raises RuntimeError: that would wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("The node's own thread cannot wait for itself; await the trio node there.")
        future: Future[T] = Future()
        if self.stopping or not self._soon(lambda: self._begin(future, call, args)):
            raise self.not_running()
        return future

    def failure(self) -> Future[BaseException | None]:
        """What `ended` fails with, once it has ended, as a result."""
        failure: Future[BaseException | None] = Future()
        self.ended.add_done_callback(lambda ended: failure.set_result(ended.exception()))
        return failure

    def not_running(self) -> NotRunning:
        """Why nothing can be called (any more)."""
        if self.stopping or not self.ended.done():
            return NotRunning("The node is closed.", hint="It can be used inside its context only.")
        error = NotRunning("The node has ended by itself.")
        error.__cause__ = self.ended.exception()
        return error

    def _soon(self, act: Callable[[], object]) -> bool:
        """Do something in the node's thread without waiting for it; False if that has ended."""
        if self._token.exception() is not None:
            return False
        try:
            self._token.result().run_sync_soon(act)
        except trio.RunFinishedError:
            return False
        return True

    # --- In the node's thread ---

    def _main(self) -> None:
        try:
            trio.run(self._live)
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits in another thread
            self._fail(error)
        else:
            if not self.ready.done():
                self.ready.set_exception(self.not_running())
            self.ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        if not self._token.done():
            self._token.set_exception(error)
        if not self.ready.done():
            self.ready.set_exception(error)
        self.ended.set_exception(error)

    async def _live(self) -> None:
        self._token.set_result(trio.lowlevel.current_trio_token())
        with self._scope:
            async with self._opening() as node, trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    self.ready.set_result(node)
                    await trio.sleep_forever()
                finally:
                    self._nursery = None

    def _begin(self, future: Future[T], call: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        if self._nursery is None:
            future.cancel()
        else:
            self._nursery.start_soon(self._run, future, call, args)

    async def _run(self, future: Future[T], call: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        scope = trio.CancelScope()
        future.add_done_callback(lambda _done: self._soon(scope.cancel))
        with scope:
            try:
                result = await call(*args)
            except trio.Cancelled:
                future.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            else:
                if future.set_running_or_notify_cancel():
                    future.set_result(result)
