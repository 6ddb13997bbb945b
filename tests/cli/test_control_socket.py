"""The control socket and its client, over a real socket and a fake table of verbs."""

import json
import os
import stat
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from meshnode.api import control_socket
from meshnode.api.control_socket import LINE_BYTES_MAX, serve, socket_path
from meshnode.cli import client
from meshnode.errors import Busy, HomeUnusable, MeshError, NotRunning, TicketUsed


class Verbs:
    def __init__(self):
        self.cancelled = trio.Event()
        self.begun = trio.Event()

    async def echo(self, args, emit):
        await emit({"event": "progress", "step": "thinking", "done": 1})
        await emit({"event": "progress", "step": "thinking", "done": 2})
        return {"got": dict(args)}

    async def fail(self, args, emit):
        async with trio.open_nursery():
            raise TicketUsed("Another device has it.", hint="Ask again.", param="ticket", retry_after_s=3)

    async def break_down(self, args, emit):
        raise KeyError("inner secret")

    async def sleep(self, args, emit):
        self.begun.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()

    async def flood(self, args, emit):
        self.begun.set()
        try:
            while True:
                await emit({"event": "progress", "text": "x" * 10_000})
        finally:
            self.cancelled.set()

    def table(self):
        return {name: getattr(self, name) for name in ("echo", "fail", "break_down", "sleep", "flood")}


@asynccontextmanager
async def serving(home, verbs=None):
    verbs = verbs or Verbs()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, home, verbs.table()))
        with trio.fail_after(10):
            yield verbs
        nursery.cancel_scope.cancel()


async def connect(home):
    return await trio.open_unix_socket(os.fspath(socket_path(home)))


async def read_line(stream):
    data = b""
    while not data.endswith(b"\n"):
        data += await stream.receive_some(65536)
    return json.loads(data)


async def test_events_and_then_the_result(tmp_path):
    events = []
    async with serving(tmp_path):
        result = await client.call(tmp_path, "echo", {"a": [1]}, dict[str, Any], events.append)
    assert result == {"got": {"a": [1]}}
    assert [event["done"] for event in events] == [1, 2]


async def test_an_error_arrives_with_its_type_and_everything_in_it(tmp_path):
    async with serving(tmp_path):
        with pytest.raises(TicketUsed) as caught:
            await client.call(tmp_path, "fail", {}, dict)
    error = caught.value
    assert (error.message, error.hint) == ("Another device has it.", "Ask again.")
    assert (error.param, error.retry_after_s) == ("ticket", 3)


async def test_what_nobody_foresaw_says_nothing_of_the_inside_and_ends_nothing(tmp_path):
    async with serving(tmp_path):
        with pytest.raises(MeshError) as caught:
            await client.call(tmp_path, "break_down", {}, dict)
        assert "secret" not in str(caught.value)
        assert await client.call(tmp_path, "echo", {}, dict[str, Any]) == {"got": {}}


async def test_only_this_user_can_reach_it_and_it_goes_when_the_node_goes(tmp_path):
    async with serving(tmp_path):
        mode = socket_path(tmp_path).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert mode & 0o777 == 0o600
    assert not socket_path(tmp_path).exists()
    with pytest.raises(NotRunning):
        await client.call(tmp_path, "echo", {}, dict)


async def test_a_socket_that_a_killed_node_left_is_replaced(tmp_path):
    socket_path(tmp_path).write_text("")
    async with serving(tmp_path):
        assert await client.call(tmp_path, "echo", {}, dict[str, Any])


async def test_a_home_too_deep_for_a_socket_gets_one_elsewhere(tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    assert socket_path(deep).parent != deep
    assert socket_path(deep) != socket_path(deep / "x")
    async with serving(deep):
        assert await client.call(deep, "echo", {}, dict[str, Any])


async def test_a_socket_of_another_user_is_not_believed(tmp_path, monkeypatch):
    async with serving(tmp_path):
        monkeypatch.setattr(client.os, "getuid", lambda: 12345)
        with pytest.raises(NotRunning, match="another user"):
            await client.call(tmp_path, "echo", {}, dict)


async def test_a_home_that_cannot_be_written_is_said_so(tmp_path):
    with pytest.raises(HomeUnusable, match="control socket"):
        await serve(tmp_path / "missing", {})


@pytest.mark.parametrize("verb", ["sleep", "flood"])
async def test_a_client_that_leaves_cancels_its_verb(tmp_path, verb):
    async with serving(tmp_path) as verbs:
        stream = await connect(tmp_path)
        await stream.send_all(b'{"verb": "%s"}\n' % verb.encode())
        await verbs.begun.wait()
        await stream.aclose()
        await verbs.cancelled.wait()


async def test_a_client_that_does_not_read_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(control_socket, "WRITE_STALL_S", 0.1)
    async with serving(tmp_path) as verbs:
        stream = await connect(tmp_path)
        await stream.send_all(b'{"verb": "flood"}\n')
        await verbs.cancelled.wait()
        await stream.aclose()


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b'{"verb": 3}', b'{"verb": "frob"}', b"\xff", b"[" * 60_000, b"x" * (LINE_BYTES_MAX + 1)],
)
async def test_a_request_that_is_none_is_refused(tmp_path, line):
    async with serving(tmp_path):
        stream = await connect(tmp_path)
        await stream.send_all(line + b"\n")
        assert (await read_line(stream))["error"]["code"] == "invalid_request"
        await stream.aclose()


async def test_several_requests_on_one_connection(tmp_path):
    async with serving(tmp_path):
        stream = await connect(tmp_path)
        for number in range(3):
            await stream.send_all(json.dumps({"verb": "echo", "args": {"n": number}}).encode() + b"\n")
            line = {}
            while "result" not in line:
                data = b""
                while not data.endswith(b"\n"):
                    data += await stream.receive_some(65536)
                line = json.loads(data.splitlines()[-1])
            assert line["result"]["got"] == {"n": number}
        await stream.aclose()


async def test_clients_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(control_socket, "CONNECTIONS_MAX", 1)
    async with serving(tmp_path):
        first = await connect(tmp_path)
        await trio.sleep(0.02)
        with pytest.raises(NotRunning):
            await client.call(tmp_path, "echo", {}, dict)
        await first.aclose()
        await trio.sleep(0.02)
        assert await client.call(tmp_path, "echo", {}, dict[str, Any])


async def test_a_node_that_stops_meanwhile_is_said_so(tmp_path):
    async with trio.open_nursery() as nursery:
        verbs = Verbs()
        scope = trio.CancelScope()

        async def node(task_status=trio.TASK_STATUS_IGNORED):
            with scope:
                await serve(tmp_path, verbs.table(), task_status=task_status)

        async def stop():
            await verbs.begun.wait()
            scope.cancel()

        await nursery.start(node)
        nursery.start_soon(stop)
        with pytest.raises(NotRunning, match="stopped"):
            await client.call(tmp_path, "sleep", {}, dict)


async def test_an_error_code_of_a_newer_node_is_kept(tmp_path):
    async def newer(_args, _emit):
        error = Busy("full")
        error.code = "quota_of_2031"
        raise error

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, tmp_path, {"x": newer}))
        with pytest.raises(MeshError) as caught:
            await client.call(tmp_path, "x", {}, dict)
        assert caught.value.code == "quota_of_2031"
        nursery.cancel_scope.cancel()
