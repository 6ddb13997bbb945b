"""A node for programs on asyncio: an async context manager, whose node lives in a thread of its own with trio.

The loop of asyncio never waits for that thread except in an await. Cancelling a task cancels what it waits for there.
"""

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from meshnode.bridge.flow import Flow
from meshnode.bridge.reply import Conversation, Prompt, Reply, reply_of
from meshnode.bridge.thread import NodeThread
from meshnode.config import Config
from meshnode.errors import Interrupted, NotRunning
from meshnode.node.node import Node
from meshnode.node.opening import open_node
from meshnode.terms import Answer, Emitted, Piece

T = TypeVar("T")


@asynccontextmanager
async def open_node_asyncio(config: Config | None = None, **settings: Any) -> AsyncIterator["AsyncioNode"]:
    """A whole node for as long as the context lasts; the arguments are those of `open_node`, and so are the errors.

    Leaving the context ends whatever still runs. If the node ends by itself, leaving raises why.
    """
    thread = NodeThread(partial(open_node, config, **settings))
    thread.start()
    try:
        yield AsyncioNode(await asyncio.wrap_future(thread.ready), thread)
    except BaseException:
        await _ended(thread)  # the caller's own error is the one that counts
        raise
    if (failure := await _ended(thread)) is not None:
        raise failure


async def _ended(thread: NodeThread) -> BaseException | None:
    """Close the node, and wait for it however often this task is cancelled meanwhile; what had ended it."""
    thread.stop()
    over: asyncio.Future[BaseException | None] = asyncio.wrap_future(thread.failure())
    cancelled: asyncio.CancelledError | None = None
    while not over.done():
        try:
            await asyncio.shield(over)
        except asyncio.CancelledError as error:
            cancelled = error
    thread.join()
    if cancelled is not None:
        raise cancelled
    return over.result()


class AsyncioNode:
    """A node whose methods are awaited on asyncio. `trio_node` is the node itself, for `call`."""

    def __init__(self, trio_node: Node, thread: NodeThread) -> None:
        self.trio_node = trio_node
        self._thread = thread

    async def ask(self, prompt: Prompt, **wishes: Any) -> Reply:
        """The whole answer; arguments and errors as for `Node.ask`."""
        async with self.stream(prompt, **wishes) as stream:
            return await stream.reply()

    def stream(self, prompt: Prompt, **wishes: Any) -> "AsyncioStream":
        """The answer as it comes, see AsyncioStream."""
        return AsyncioStream(self._thread, Flow(partial(self.trio_node.ask, prompt, **wishes)))

    def chat(self, system: str = "", **wishes: Any) -> "AsyncioChat":
        """A conversation; the wishes hold for each of its questions."""
        return AsyncioChat(self, system, wishes)

    async def embed(self, texts: str | tuple[str, ...], **wishes: Any) -> tuple[tuple[float, ...], ...]:
        """A vector of unit length for each text; raises as `Node.embed`."""
        vectors, _ = await self.call(self.trio_node.embed, texts, **wishes)
        return vectors

    async def call(self, method: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Await an async method of `trio_node`: `await node.call(node.trio_node.join, ticket)`."""
        return await awaited(self._thread, self._thread.submit(partial(method, *args, **kwargs)))

    async def look(self, method: Callable[..., T], *args: Any) -> T:
        """Call a method of `trio_node` that is not async: `await node.look(node.trio_node.snapshot)`."""

        async def looked() -> T:
            return method(*args)

        return await self.call(looked)


class AsyncioStream(AsyncIterator[Emitted]):
    """An answer as it comes: an iterator of the same items as `Running.pieces`, ended by an End or a MeshError.

    It begins with `async with`, which waits until it is known who serves it (`answer`), or with the first item.
    Leaving the `async with`, `aclose`, the cancellation of whoever waits for an item, and being forgotten cancel what
    has not come yet.
    """

    def __init__(self, thread: NodeThread, flow: Flow) -> None:
        self._thread, self._flow = thread, flow
        self._taken: deque[Emitted] = deque()
        self._over = False
        self._answer: Answer | None = None
        self._serving: Future[None] | None = None

    @property
    def answer(self) -> Answer:
        """Who serves it; raises Interrupted before it has begun."""
        if self._answer is None:
            raise Interrupted(
                "The request has not begun yet.", hint="Use `async with`, or take an item first."
            )
        return self._answer

    async def __aenter__(self) -> Self:
        """Wait until it is known who serves it. Raises as `Node.ask`."""
        if self._serving is None and not self._over:
            self._serving = self._thread.submit(self._flow.serve)
            weakref.finalize(self, self._serving.cancel)
            self._answer = await self._done(self._flow.begun)
        return self

    async def __anext__(self) -> Emitted:
        """The next item. Raises MeshError."""
        await self.__aenter__()
        if not self._taken and not self._over:
            self._taken.extend(await self._done(self._flow.take))
        if not self._taken:
            self._over = True
            raise StopAsyncIteration
        return self._taken.popleft()

    async def reply(self) -> Reply:
        """What has not been taken yet, as a whole, once it has come; raises MeshError."""
        items = [item async for item in self]
        reply = reply_of(self.answer, items)
        if reply is None:
            raise Interrupted("The answer was closed before its end.")
        return reply

    async def texts(self) -> AsyncIterator[str]:
        """Only the text, as it comes."""
        async for item in self:
            if isinstance(item, Piece) and item.text:
                yield item.text

    async def aclose(self) -> None:
        """Cancel what has not come yet; returns once that has been left, and does nothing after the node's end."""
        self._over = True
        self._taken.clear()
        if self._serving is not None:
            with suppress(NotRunning):
                await awaited(self._thread, self._thread.submit(self._flow.close))

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _done(self, call: Callable[[], Awaitable[T]]) -> T:
        """What a call gives; if it is cancelled, or fails, nothing more of the answer is wanted."""
        try:
            return await awaited(self._thread, self._thread.submit(call))
        except BaseException:
            if self._serving is not None:
                self._serving.cancel()
            self._over = True
            raise


class AsyncioChat:
    """A conversation: each question is asked with all that was said before."""

    def __init__(self, node: AsyncioNode, system: str, wishes: dict[str, Any]) -> None:
        self._node, self._wishes = node, wishes
        self.conversation = Conversation(system)

    async def say(self, text: str) -> Reply:
        """The answer to the next thing that the user says; one that fails leaves the conversation as it was."""
        asked = self.conversation.asking(text)
        reply = await self._node.ask(asked, **self._wishes)
        self.conversation.answered(asked, reply)
        return reply


async def awaited(thread: NodeThread, future: Future[T]) -> T:
    """What a call gives; cancelling this cancels the call. Raises NotRunning if the node ended."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        if not thread.stopping:
            await asyncio.wrap_future(thread.failure())  # it is just about to end
        error = thread.not_running()
        raise error from error.__cause__
