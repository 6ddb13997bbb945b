"""A node for plain code: a context manager, and methods that wait. The node itself lives in a thread of its own."""

import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
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


@contextmanager
def open_node_sync(config: Config | None = None, **settings: Any) -> Iterator["SyncNode"]:
    """A whole node for as long as the context lasts; the arguments are those of `open_node`, and so are the errors.

    Every method may be called from any thread. Ctrl-C in the main thread cancels what it waits for, and leaving the
    context ends whatever still runs. If the node ends by itself, leaving raises why.
    """
    thread = NodeThread(partial(open_node, config, **settings))
    thread.start()
    try:
        yield SyncNode(thread.ready.result(), thread)
    except BaseException:
        thread.stop()
        thread.join()  # the caller's own error is the one that counts
        raise
    thread.stop()
    if (failure := thread.join()) is not None:
        raise failure


class SyncNode:
    """A node whose methods wait. `trio_node` is the node itself, for `call`."""

    def __init__(self, trio_node: Node, thread: NodeThread) -> None:
        self.trio_node = trio_node
        self._thread = thread

    def ask(self, prompt: Prompt, **wishes: Any) -> Reply:
        """The whole answer; arguments and errors as for `Node.ask`."""
        with self.stream(prompt, **wishes) as stream:
            return stream.reply()

    def stream(self, prompt: Prompt, **wishes: Any) -> "SyncStream":
        """The answer as it comes, see SyncStream; waits until it is known who serves it. Raises as `Node.ask`."""
        return SyncStream(self._thread, Flow(partial(self.trio_node.ask, prompt, **wishes)))

    def chat(self, system: str = "", **wishes: Any) -> "SyncChat":
        """A conversation; the wishes hold for each of its questions."""
        return SyncChat(self, system, wishes)

    def embed(self, texts: str | tuple[str, ...], **wishes: Any) -> tuple[tuple[float, ...], ...]:
        """A vector of unit length for each text; raises as `Node.embed`."""
        vectors, _ = self.call(self.trio_node.embed, texts, **wishes)
        return vectors

    def call(self, method: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Call an async method of `trio_node` and wait for its result: `node.call(node.trio_node.join, ticket)`."""
        return waited(self._thread, self._thread.submit(partial(method, *args, **kwargs)))

    def look(self, method: Callable[..., T], *args: Any) -> T:
        """Call a method of `trio_node` that is not async: `node.look(node.trio_node.snapshot)`."""

        async def looked() -> T:
            return method(*args)

        return self.call(looked)


class SyncStream(Iterator[Emitted]):
    """An answer as it comes: an iterator of the same items as `Running.pieces`, ended by an End or a MeshError.

    `answer` says who serves it. `close`, the end of a `with` and being forgotten cancel what has not come yet.
    """

    def __init__(self, thread: NodeThread, flow: Flow) -> None:
        self._thread, self._flow = thread, flow
        self._taken: deque[Emitted] = deque()
        self._over = False
        serving = thread.submit(flow.serve)
        weakref.finalize(self, serving.cancel)
        try:
            self.answer: Answer = waited(thread, thread.submit(flow.begun))
        except BaseException:
            serving.cancel()
            raise

    def __next__(self) -> Emitted:
        """The next item; waits for it. Raises MeshError."""
        if not self._taken and not self._over:
            self._taken.extend(self._next_items())
        if not self._taken:
            self._over = True
            raise StopIteration
        return self._taken.popleft()

    def _next_items(self) -> list[Emitted]:
        try:
            return waited(self._thread, self._thread.submit(self._flow.take))
        except Exception:
            self._over = True
            raise

    def texts(self) -> Iterator[str]:
        """Only the text, as it comes."""
        return (item.text for item in self if isinstance(item, Piece) and item.text)

    def reply(self) -> Reply:
        """What has not been taken yet, as a whole, once it has come; raises MeshError."""
        reply = reply_of(self.answer, self)
        if reply is None:
            raise Interrupted("The answer was closed before its end.")
        return reply

    def close(self) -> None:
        """Cancel what has not come yet; returns once that has been left, and does nothing after the node's end."""
        self._over = True
        self._taken.clear()
        with suppress(NotRunning):
            waited(self._thread, self._thread.submit(self._flow.close))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


class SyncChat:
    """A conversation: each question is asked with all that was said before."""

    def __init__(self, node: SyncNode, system: str, wishes: dict[str, Any]) -> None:
        self._node, self._wishes = node, wishes
        self.conversation = Conversation(system)

    def say(self, text: str) -> Reply:
        """The answer to the next thing that the user says; one that fails leaves the conversation as it was."""
        asked = self.conversation.asking(text)
        reply = self._node.ask(asked, **self._wishes)
        self.conversation.answered(asked, reply)
        return reply

    def stream(self, text: str) -> Iterator[str]:
        """The same as it comes, as text; what is not taken to its end leaves the conversation as it was."""
        asked, items = self.conversation.asking(text), list[Emitted]()
        with self._node.stream(asked, **self._wishes) as stream:
            for item in stream:
                items.append(item)
                if isinstance(item, Piece) and item.text:
                    yield item.text
            if (reply := reply_of(stream.answer, items)) is not None:
                self.conversation.answered(asked, reply)


def waited(thread: NodeThread, future: Future[T]) -> T:
    """What a call gives; one that is interrupted, as by Ctrl-C, is cancelled. Raises NotRunning if the node ended."""
    try:
        return future.result()
    except CancelledError:
        if not thread.stopping:
            thread.ended.exception()  # it is just about to end
        error = thread.not_running()
        raise error from error.__cause__
    finally:
        future.cancel()
