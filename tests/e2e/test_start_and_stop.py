"""Starting, joining and stopping at the command line, with the times that are promised."""

import fcntl
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import trio

from meshnode.testing.processes import NodeProcess, node_process
from tests.e2e.world import (
    HANG_S,
    all_gone,
    completion,
    family,
    free_port,
    has_model,
    streamed,
    surroundings,
    taken_port,
)

HEALTHY_WITHIN_S = 2.0
FIRST_TOKEN_WITHIN_S = 5.0
STOPPED_WITHIN_S = 5.0
JOIN = ("-m", "meshnode.cli.main", "join", "--json")


async def healthy(url: str) -> None:
    """Wait until the API says that it is well."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        while True:
            try:
                response = await http.get(f"{url}/healthz")
            except httpx2.ConnectError:
                await trio.sleep(0.02)
                continue
            assert response.status_code == 200
            return


@asynccontextmanager
async def with_model(home: Path, **env: str) -> AsyncIterator[NodeProcess]:
    """A node that has loaded the model."""
    async with node_process(home, env=surroundings(**env)) as node:
        with trio.fail_after(HANG_S):
            await node.until_ready()
        yield node


async def test_the_api_is_there_within_two_seconds_and_waits_for_nothing(tmp_path: Path):
    """Neither for the model, which another process seems to be fetching, nor for the mesh, which is mute."""
    cache = tmp_path / "cache" / "meshnode" / "models"
    cache.mkdir(parents=True)
    port = free_port()
    with taken_port() as mute, (cache / "pull.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        env = surroundings(XDG_CACHE_HOME=str(tmp_path / "cache"), HOME=str(tmp_path / "user"))
        arguments = ("--api-port", str(port), "--bootstrap", f"ws://127.0.0.1:{mute}")
        async with node_process(tmp_path / "home", arguments, env=env) as node:
            with trio.fail_after(HEALTHY_WITHIN_S):
                await healthy(f"http://127.0.0.1:{port}")
            with trio.fail_after(HANG_S):
                await node.mesh_address()
                seen = await node.snapshot()
            assert (seen.state, seen.links) == ("loading", ())


@pytest.mark.model
async def test_from_join_to_the_first_token_of_a_peer_in_five_seconds(model_file: Path, tmp_path: Path):
    async with with_model(tmp_path / "A") as founder:
        ticket = await founder.invite()
        with trio.fail_after(FIRST_TOKEN_WITHIN_S):
            arguments = ("--engine", "none", ticket)
            async with node_process(tmp_path / "B", arguments, program=JOIN, env=surroundings()) as joiner:
                await joiner.event("joined")
                await joiner.until(has_model)
                async with streamed(await joiner.api_url(), completion("Say hello.")) as events:
                    await events.texts(1)


@pytest.mark.model
@pytest.mark.parametrize("when", ["while it loads", "when it is ready", "while it answers"])
async def test_ctrl_c_ends_a_node_and_all_it_started(model_file: Path, tmp_path: Path, when: str):
    env = surroundings(MESHNODE_API_DRAIN_S="1")
    async with node_process(tmp_path, env=env) as node, trio.open_nursery() as nursery:
        with trio.fail_after(HANG_S):
            url = await node.api_url()
            while len(started := family(node)) < 2:  # the node and its worker
                await trio.sleep(0.02)
            if when != "while it loads":
                await node.until_ready()
            left: list = []
            if when == "while it answers":
                await nursery.start(listen, url, left)
            started = family(node)
        node.process.send_signal(signal.SIGINT)
        with trio.fail_after(STOPPED_WITHIN_S):
            assert await node.process.wait() == 0
        await all_gone(started, 1.0)
    if when == "while it answers":
        assert left[-1].keys() == {"error"}


async def listen(url: str, left: list, task_status=trio.TASK_STATUS_IGNORED) -> None:
    """Read an answer; started when it has begun."""
    body = completion("Write down the numbers from one to one thousand in words.", max_tokens=1500)
    async with streamed(url, body) as events:
        await events.texts(3)
        task_status.started()
        left += await events.rest()


@pytest.mark.model
async def test_a_node_that_is_killed_leaves_no_worker(model_file: Path, tmp_path: Path):
    async with with_model(tmp_path) as node:
        started = family(node)
        assert len(started) > 1
        node.kill()
        await all_gone(started, STOPPED_WITHIN_S)


@pytest.mark.model
async def test_a_home_is_good_for_a_second_life(model_file: Path, tmp_path: Path):
    """After a kill nothing of the first life, neither lock nor socket nor mesh, is in the way of the second."""
    async with with_model(tmp_path) as node:
        first = await node.snapshot()
        node.kill()
        await node.process.wait()
    async with with_model(tmp_path) as node:
        second = await node.snapshot()
        async with streamed(await node.api_url(), completion("Say hello.")) as events:
            assert (await events.rest())[-1] == "[DONE]"
    assert (first.node, first.mesh.id) == (second.node, second.mesh.id)
