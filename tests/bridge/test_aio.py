"""A node on asyncio: the loop stays free, cancelling a task cancels its request, errors and ends as in plain code."""

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import trio

from meshnode import AsyncioNode, open_node_asyncio
from meshnode.bridge.thread import NodeThread
from meshnode.errors import BadRequest, Busy, HomeInUse, Interrupted, NotRunning
from meshnode.terms import End, Piece
from tests.bridge.conftest import Settings, engine_of, make_long

WITHIN_S = 10.0


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scene on asyncio; a node that outlives it is a fault."""
    asyncio.run(asyncio.wait_for(scene(), 60))
    assert [thread.name for thread in threading.enumerate() if thread.name == "meshnode"] == []


async def soon(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.01)


def test_ask_stream_chat_and_embed(settings: Settings) -> None:
    async def scene() -> None:
        async with open_node_asyncio(**settings()) as node:
            reply = await node.ask("Why is the sky blue?", max_tokens=5)
            assert (reply.answer.rung, reply.usage.completion_tokens) == ("local", 5)
            async with node.stream("Why is the sky blue?", max_tokens=5) as stream:
                assert stream.answer.model == "smollm2:135m"
                items = [item async for item in stream]
            assert isinstance(items[-1], End)
            assert "".join(item.text for item in items if isinstance(item, Piece)) == reply.text
            texts = [text async for text in node.stream("Why is the sky blue?", max_tokens=5).texts()]
            assert "".join(texts) == reply.text
            assert len(await node.embed(("sea", "sand"))) == 2
            chat = node.chat(max_tokens=3)
            await chat.say("Hello!")
            await chat.say("And now?")
            assert [turn.role for turn in chat.conversation.turns] == ["user", "assistant"] * 2
            assert (await node.look(node.trio_node.snapshot)).state == "ready"

    play(scene)


def test_two_nodes_on_one_loop(settings: Settings) -> None:
    async def scene() -> None:
        async with (
            open_node_asyncio(**settings("a", engine="none")) as a,
            open_node_asyncio(**settings("b")) as b,
        ):
            await b.call(b.trio_node.join, await a.call(a.trio_node.invite))
            async with asyncio.timeout(WITHIN_S):
                while not await a.look(a.trio_node.models):
                    await asyncio.sleep(0.05)
            replies = await asyncio.gather(*(node.ask("hello", max_tokens=3) for node in (a, b, a)))
            assert [reply.answer.rung for reply in replies] == ["peer", "local", "peer"]

    play(scene)


def test_the_loop_stays_free(settings: Settings) -> None:
    async def scene() -> None:
        async with open_node_asyncio(**settings()) as node:
            asked = asyncio.create_task(node.ask("Count.", max_tokens=30))
            turns = 0
            while not asked.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns > 100
            assert (await asked).text

    play(scene)


async def in_stream(node: AsyncioNode) -> None:
    async for _ in node.stream("Count.", max_tokens=1000):
        pass


async def in_context(node: AsyncioNode) -> None:
    async with node.stream("Count.", max_tokens=1000) as stream:
        async for _ in stream:
            pass


async def whole(node: AsyncioNode) -> None:
    await node.ask("Count.", max_tokens=1000)


@pytest.mark.parametrize("how", [in_stream, in_context, whole])
def test_cancelling_a_task_cancels_its_request(settings: Settings, how: Callable[[AsyncioNode], Any]) -> None:
    async def scene() -> None:
        async with open_node_asyncio(**settings()) as node:
            engine = make_long(node.trio_node)
            task = asyncio.create_task(how(node))
            await soon(lambda: engine.load.in_flight)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await soon(lambda: len(engine.cancelled_jobs) == 1)
            assert engine.load.in_flight == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await how(node)
            await soon(lambda: engine.load.in_flight == 0)

    play(scene)


def test_a_request_that_is_cancelled_before_it_began_leaves_nothing(settings: Settings) -> None:
    async def scene() -> None:
        async with open_node_asyncio(**settings()) as node:
            engine = make_long(node.trio_node)
            busy = [asyncio.create_task(node.ask(f"Count {one}.", max_tokens=1000)) for one in range(8)]
            await soon(lambda: engine.load.in_flight == 8)
            ninth = asyncio.create_task(node.ask("Count, too.", max_tokens=1000))
            await asyncio.sleep(0.1)
            for task in (ninth, *busy):
                task.cancel()
            await asyncio.gather(ninth, *busy, return_exceptions=True)
            await soon(lambda: engine.load.in_flight == 0)
            await soon(lambda: node.trio_node._admission.taken == 0)

    play(scene)


def test_leaving_a_context_waits_until_the_run_was_left(settings: Settings) -> None:
    async def scene() -> None:
        async with open_node_asyncio(**settings()) as node:
            engine = make_long(node.trio_node)
            async with node.stream("Count.", max_tokens=1000) as stream:
                await anext(stream)
            assert engine.load.in_flight == 0
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            await stream.aclose()

    play(scene)


def test_a_stream_that_is_forgotten_is_cancelled(settings: Settings) -> None:
    async def scene() -> None:
        async with open_node_asyncio(**settings()) as node:
            engine = make_long(node.trio_node)
            async for _ in node.stream("Count.", max_tokens=1000):
                break
            gc.collect()
            await soon(lambda: len(engine.cancelled_jobs) == 1)

    play(scene)


def test_errors_cross_as_they_are(settings: Settings) -> None:
    async def scene() -> None:
        async with open_node_asyncio(**settings()) as node:
            with pytest.raises(HomeInUse):
                async with open_node_asyncio(**settings()):
                    pass
            with pytest.raises(BadRequest, match="no wish 'colour'"):
                await node.ask("hello", colour="red")
            refused = Busy("full", retry_after_s=3.0)
            engine_of(node.trio_node).refuse_next(refused)
            with pytest.raises(Busy) as busy:
                await node.ask("hello", place="local")
            assert busy.value is refused
            with pytest.raises(Interrupted, match="not begun"):
                _ = node.stream("hello").answer
            with pytest.raises(ValueError, match="the caller's own"):
                async with node.stream("hello") as stream:
                    await anext(stream)
                    raise ValueError("the caller's own")
            assert (await node.ask("hello", max_tokens=1)).text

    play(scene)


def test_the_end_of_the_node_is_told_and_not_taken_for_a_cancellation(settings: Settings) -> None:
    async def scene() -> None:
        async with open_node_asyncio(**settings()) as node:
            engine = make_long(node.trio_node)
            waiting = asyncio.create_task(node.ask("Count.", max_tokens=1000))
            await soon(lambda: engine.load.in_flight)
        with pytest.raises(NotRunning):
            await waiting
        with pytest.raises(NotRunning):
            await node.ask("hello")

    play(scene)


def test_a_node_that_ends_by_itself_says_why(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = trio.Event()

    async def broken(_self: object) -> None:
        await gone.wait()
        raise KeyError("a fault of the node's own")

    monkeypatch.setattr("meshnode.node.sharing.Sharing.run", broken)

    async def scene() -> None:
        with pytest.raises(KeyError, match="a fault of the node's own"):
            async with open_node_asyncio(**settings()) as node:
                make_long(node.trio_node)
                async with node.stream("Count.", max_tokens=1000) as stream:
                    await anext(stream)
                    await node.look(gone.set)
                    with pytest.raises(NotRunning, match="by itself") as failure:
                        async for _ in stream:
                            pass
                assert isinstance(failure.value.__cause__, KeyError)

    play(scene)


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.2])
def test_opening_can_be_cancelled(settings: Settings, after_s: float) -> None:
    async def opened() -> None:
        async with open_node_asyncio(**settings()):
            await asyncio.sleep(60)

    async def scene() -> None:
        task = asyncio.create_task(opened())
        await asyncio.sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with open_node_asyncio(**settings()) as node:  # the home is free again
            assert (await node.ask("hello", max_tokens=1)).text

    play(scene)


def test_closing_is_waited_for_although_it_is_cancelled(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, over, joined = asyncio.Event(), list[bool](), NodeThread.join

    def join(thread: NodeThread) -> BaseException | None:
        over.append(thread.ended.done())  # else the loop would wait here
        return joined(thread)

    monkeypatch.setattr(NodeThread, "join", join)

    async def lived() -> None:
        async with open_node_asyncio(**settings()):
            closing.set()

    async def scene() -> None:
        task = asyncio.create_task(lived())
        await closing.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        async with open_node_asyncio(**settings()):
            pass
        assert over == [True, True]

    play(scene)
