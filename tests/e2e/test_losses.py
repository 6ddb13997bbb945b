"""Losses in the middle of an answer: the client leaves, the relay, the worker or the whole node is killed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshnode.testing.processes import NodeProcess
from tests.e2e.world import HANG_S, Events, Line, completion, gone, raised_line, streamed, worker_of

pytestmark = pytest.mark.model

# Greedily drawn, this goes on until the tokens are used up, which takes many seconds.
ENDLESS = completion("Write down the numbers from one to one thousand in words.", max_tokens=1500)
WITHIN_S = 1.0
LOOKS_S = 15.0  # how long an answer that broke off may look for a place to go on


@asynccontextmanager
async def under_way(line: Line) -> AsyncIterator[Events]:
    """An answer for A's client that C is in the middle of."""
    async with streamed(await line.a.api_url(), ENDLESS) as events:
        await events.texts(8)
        seen = await line.c.snapshot()
        assert seen.engine.in_flight == 1
        yield events


def check_one_error(events: list) -> None:
    """What came last is one error in OpenAI's shape, and nothing came after it."""
    errors = [event for event in events if "error" in event]
    assert len(errors) == 1
    assert events[-1] is errors[0]
    assert errors[0].keys() == {"error"}
    assert errors[0]["error"].keys() == {"message", "type", "param", "code"}
    assert errors[0]["error"]["code"] == "interrupted"
    assert "broke off" in errors[0]["error"]["message"]


async def idle(node: NodeProcess) -> None:
    """Wait until a node's engine runs nothing."""
    await node.until(lambda seen: seen.engine.in_flight == 0)


async def test_the_engine_is_idle_within_a_second_of_its_client_leaving(line: Line):
    with trio.fail_after(HANG_S):
        async with under_way(line):
            pass
        with trio.fail_after(WITHIN_S):
            await idle(line.c)


async def test_a_killed_worker_is_a_pause_and_the_next_request_works(line: Line):
    with trio.fail_after(HANG_S):
        worker = worker_of(line.c)
        async with under_way(line) as events:
            worker.kill()
            with trio.fail_after(LOOKS_S):
                await events.texts(100)  # of the same answer, from the worker's successor
        assert worker_of(line.c).pid != worker.pid
        async with streamed(await line.a.api_url(), completion("Say hello.")) as events:
            answer = await events.rest()
        assert answer[-1] == "[DONE]"
        assert answer[-2]["choices"][0]["finish_reason"] in ("stop", "length")


async def test_a_killed_relay_is_one_error_where_there_is_no_other_way(model_file: Path, tmp_path: Path):
    async with raised_line(tmp_path) as line:
        with trio.fail_after(HANG_S):
            async with under_way(line) as events:
                line.b.kill()
                with trio.fail_after(LOOKS_S):
                    left = await events.rest()
            check_one_error(left)
            await idle(line.c)


async def test_a_killed_node_takes_its_worker_along(model_file: Path, tmp_path: Path):
    async with raised_line(tmp_path) as line:
        with trio.fail_after(HANG_S):
            worker = worker_of(line.c)
            async with under_way(line) as events:
                line.c.kill()
                with trio.fail_after(LOOKS_S):
                    left = await events.rest()
            check_one_error(left)
            await gone(worker, 5.0)
