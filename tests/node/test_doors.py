"""A node with its doors, in this process: keys where others can reach it, and an end that lets answers end."""

import json
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import pytest
import trio

from meshnode import config as settings
from meshnode.cli import client
from meshnode.control.keys import MadeKey
from meshnode.errors import ConfigInvalid, sole_cause
from meshnode.node import run_node

NODE = {"engine": "scripted", "mesh_host": "127.0.0.1", "mesh_port": 0, "api_port": 0, "open_mesh": True}


@pytest.fixture
def anyio_backend() -> str:
    """Real sockets take real time."""
    return "trio"


@asynccontextmanager
async def running(home, **flags):
    """A node; gives its address, and the event that stops it. It must end by itself."""
    config = settings.load(home, {**NODE, **flags}, {})
    send, events = trio.open_memory_channel(100)
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(run_node, config, on_event=send.send_nowait, stop=stop))
            url = ""
            async for event in events:
                url = event.get("url") or url
                if event["event"] == "ready":
                    break
            yield url, stop
            stop.set()


async def create(home, name, **wanted):
    return await client.call(home, "keys_create", {"name": name, **wanted}, MadeKey)


async def refusal(home, **flags):
    config = settings.load(home, {**NODE, **flags}, {})
    with trio.fail_after(20), pytest.raises((ConfigInvalid, ExceptionGroup)) as caught:
        await run_node(config, on_event=lambda _event: None, stop=trio.Event())
    return sole_cause(caught.value)


async def test_a_node_that_others_can_reach_does_not_start_without_a_key(tmp_path):
    error = await refusal(tmp_path, api_host="0.0.0.0")
    assert isinstance(error, ConfigInvalid)
    assert error.param == "api_host"
    assert "meshnode keys create" in error.hint
    async with running(tmp_path):
        made = await create(tmp_path, "phone")
    async with running(tmp_path, api_host="0.0.0.0") as (url, _), httpx2.AsyncClient() as http:
        at = f"http://127.0.0.1:{url.rpartition(':')[2]}/v1/models"
        assert (await http.get(at)).status_code == 401
        key = {"authorization": f"Bearer {made.key}"}
        assert (await http.get(at, headers=key)).status_code == 200
        for host, status in (("192.0.2.7:8420", 200), ("evil.example", 403)):
            assert (await http.get(at, headers={**key, "host": host})).status_code == status
        await client.call(tmp_path, "keys_revoke", {"key": "phone"}, object)
        assert (await http.get(at, headers=key)).status_code == 401
    assert isinstance(await refusal(tmp_path, api_host="0.0.0.0"), ConfigInvalid)  # a revoked key is none


async def test_a_node_that_is_told_to_stop_lets_an_answer_end(tmp_path):
    body = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "word " * 60}], "stream": True}
    async with running(tmp_path) as (url, stop), httpx2.AsyncClient(base_url=url) as http:
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            stop.set()
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert len(rest) > 20


async def test_an_answer_that_takes_too_long_ends_with_an_error(tmp_path):
    body = {
        "model": "smollm2:135m",
        "messages": [{"role": "user", "content": "word " * 2000}],
        "stream": True,
    }
    async with running(tmp_path, api_drain_s=0) as (url, stop), httpx2.AsyncClient(base_url=url) as http:
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            stop.set()
            rest = [line async for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "interrupted"
