"""The API over real sockets: httpx2, the openai client, and clients that misbehave."""

import json
import os
import socket
from contextlib import asynccontextmanager
from functools import partial

import h11
import httpx2
import openai
import pytest
import trio
from starlette.responses import PlainTextResponse

from meshnode.api import server
from meshnode.api.app import build
from meshnode.api.guard import BODY_MAX, DISCARD_MAX, Guard
from meshnode.errors import Busy, ConfigInvalid, Interrupted, ModelNotFound, PortInUse
from tests.api.fakes import END, FakeDoors, piece, request_body


@asynccontextmanager
async def serving(doors, shutdown=None, application=None):
    shutdown = trio.Event() if shutdown is None else shutdown
    async with trio.open_nursery() as nursery:
        application = build(doors) if application is None else application
        serve = partial(server.serve, application, host="127.0.0.1", port=0, shutdown=shutdown)
        url = await nursery.start(serve)
        with trio.fail_after(20):
            yield url
        shutdown.set()


@asynccontextmanager
async def openai_client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def port_of(url):
    return int(url.rpartition(":")[2])


async def connect(url):
    return await trio.open_tcp_stream("127.0.0.1", port_of(url))


def raw_request(url, body, length=None):
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port_of(url)}\r\n"
    return (
        f"{head}content-type: application/json\r\ncontent-length: {length or len(body)}\r\n\r\n".encode()
        + body
    )


# These clients leave their generators to the collector when a stream is left early.
untidy_client = pytest.mark.filterwarnings(
    "ignore:Async generator '(httpx2|openai|httpcore2):ResourceWarning"
)

CHAT = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_head_leaves_with_what_follows_it_and_the_end_with_what_came_before(stream, monkeypatch):
    written, write = [], os.write

    def noted(descriptor, data):
        written.append(bytes(data))
        return write(descriptor, data)

    monkeypatch.setattr(server.os, "write", noted)
    async with serving(FakeDoors()) as url, await connect(url) as client:
        for _ in range(2):  # on one connection
            await client.send_all(raw_request(url, json.dumps(CHAT | {"stream": stream}).encode()))
            received = b""
            while not received.endswith(b"0\r\n\r\n" if stream else b"}"):
                received += await client.receive_some()
        heads = [data for data in written if data.startswith(b"HTTP/1.1 200 ")]
        assert [b"chatcmpl-" in data for data in heads] == [True, True]
        assert [b"[DONE]" in data for data in written if data.endswith(b"0\r\n\r\n")] == [True] * 2 * stream
        assert stream or heads[-1] == received


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_reads_to_the_end_of_the_connection_gets_there(stream):
    async with serving(FakeDoors()) as url, await connect(url) as client:
        asked = raw_request(url, json.dumps(CHAT | {"stream": stream}).encode())
        await client.send_all(asked.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
        received = b""
        with trio.fail_after(5):
            while part := await client.receive_some():
                received += part
        assert received.startswith(b"HTTP/1.1 200")


@untidy_client
async def test_the_openai_client_gets_whole_answers_streams_and_models():
    async with serving(FakeDoors()) as url, openai_client(url) as client:
        whole = await client.chat.completions.create(**CHAT)
        assert whole.choices[0].message.content == "Hello ☺"
        assert whole.usage.total_tokens == 10
        stream = await client.chat.completions.create(
            **CHAT,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"mesh": {"privacy": "local"}},
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello ☺"
        assert chunks[-1].usage.completion_tokens == 3
        assert [model.id async for model in client.models.list()] == ["smollm2:135m", "hf/owner:8b"]
        assert (await client.models.retrieve("hf/owner:8b")).id == "hf/owner:8b"


@untidy_client
async def test_the_openai_client_raises_its_own_errors():
    doors = FakeDoors()
    async with serving(doors) as url, openai_client(url) as client:
        doors.refusal = Busy("all full", retry_after_s=2)
        with pytest.raises(openai.RateLimitError) as busy:
            await client.chat.completions.create(**CHAT)
        assert busy.value.response.headers["retry-after"] == "2"
        doors.refusal = ModelNotFound("no such model", param="model")
        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(**CHAT, stream=True)
        assert missing.value.code == "model_not_found"
        doors.refusal = None
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(**CHAT, n=99)
        assert bad.value.param == "n"
        doors.steps = (piece(0, "x"), Interrupted("the peer left"))
        with pytest.raises(openai.APIError, match="the peer left"):
            async for _ in await client.chat.completions.create(**CHAT, stream=True):
                pass


@untidy_client
async def test_a_client_that_leaves_mid_stream_cancels_the_run():
    doors = FakeDoors([piece(0, "x"), 1000.0])
    async with serving(doors) as url, httpx2.AsyncClient(base_url=url) as client:
        async with client.stream("POST", "/v1/chat/completions", json=request_body(stream=True)) as response:
            await anext(response.aiter_lines())
            assert doors.running == 1
        left = trio.current_time()
        await doors.left.wait()
        assert trio.current_time() - left < 0.5
    assert doors.cancelled == 1


async def test_a_connection_is_used_again():
    async with serving(FakeDoors()) as url:
        stream = await connect(url)
        for _ in range(3):
            await stream.send_all(raw_request(url, json.dumps(request_body()).encode()))
            answer = b""
            while not answer.endswith(b"}}}"):
                answer += await stream.receive_some(65536)
            assert answer.startswith(b"HTTP/1.1 200")
        await stream.aclose()


@pytest.mark.parametrize("size", [BODY_MAX + 1, DISCARD_MAX * 3])
async def test_a_huge_body_is_refused_and_its_connection_ends(size):
    async with serving(FakeDoors()) as url:
        stream = await connect(url)
        answer = bytearray()

        async def pour():
            with trio.move_on_after(15):
                try:
                    await stream.send_all(raw_request(url, b"", size))
                    for _ in range(size // 65536 + 1):
                        await stream.send_all(b" " * 65536)
                except trio.BrokenResourceError:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            try:
                while b"request_too_large" not in answer and (data := await stream.receive_some(65536)):
                    answer += data
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()
        await stream.aclose()
        assert size > DISCARD_MAX or answer.startswith(b"HTTP/1.1 413")
        await all_closed(url)


async def test_a_body_that_nobody_reads_does_not_keep_its_connection():
    """Many small parts fill the server's queue to an application that takes its time and reads nothing."""

    async def slow(scope, receive, send):
        await trio.sleep(0.1)
        await PlainTextResponse("no", 404)(scope, receive, send)

    head = b"POST /v1/frob HTTP/1.1\r\nHost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
    async with serving(None, application=Guard(slow)) as url:
        stream = await connect(url)
        await stream.send_all(head + b"1\r\nx\r\n" * 2000)
        answer = bytearray()
        with trio.fail_after(3):
            while data := await stream.receive_some(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 404")
        await stream.aclose()


@pytest.mark.parametrize(("path", "status"), [(b"/v1/frob", b"404"), (b"/healthz", b"405")])
async def test_a_refused_path_leaves_the_connection_to_the_next_request(path, status):
    head = b"POST " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\ncontent-length: 5\r\n\r\n"
    async with serving(FakeDoors()) as url, await connect(url) as stream:
        await stream.send_all(head)
        with trio.move_on_after(0.2):  # whoever answers without the body has done so by then
            assert await stream.receive_some(65536) == b""
        await stream.send_all(b"hello")
        with trio.fail_after(3):
            assert (await until(stream, b"}}")).startswith(b"HTTP/1.1 " + status)
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await until(stream, b"}")).startswith(b"HTTP/1.1 200")


async def until(stream, end):
    """What comes, up to these bytes; an error if the connection ends before."""
    came = b""
    while not came.endswith(end):
        data = await stream.receive_some(65536)
        assert data, came
        came += data
    return came


async def all_closed(url):
    """The server still answers, and within a moment."""
    with trio.fail_after(2):
        async with httpx2.AsyncClient(base_url=url) as client:
            assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    ],
)
async def test_garbage_ends_its_own_connection_only(garbage):
    async with serving(FakeDoors()) as url:
        stream = await connect(url)
        await stream.send_all(garbage)
        with trio.move_on_after(0.3):
            try:
                while await stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass
        await stream.aclose()
        await all_closed(url)


async def test_shutdown_ends_a_stream_with_an_error_and_an_idle_connection_at_once():
    doors = FakeDoors([piece(0, "x"), 1000.0])
    shutdown = trio.Event()
    async with serving(doors, shutdown) as url, httpx2.AsyncClient(base_url=url) as client:
        idle = await connect(url)
        async with client.stream("POST", "/v1/chat/completions", json=request_body(stream=True)) as response:
            lines = response.aiter_lines()
            await anext(lines)
            begun = trio.current_time()
            shutdown.set()
            rest = [line async for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "interrupted"
        assert await idle.receive_some(1) == b""
        await idle.aclose()
        assert trio.current_time() - begun < 1


async def test_a_client_that_does_not_read_cannot_hold_up_a_shutdown(monkeypatch):
    monkeypatch.setattr(server, "GRACE_S", 0.3)
    doors = FakeDoors([*(piece(index, "x" * 500_000) for index in range(100)), END])
    stalled = None
    begun = 0.0
    async with serving(doors) as url:
        stalled = await connect(url)
        await stalled.send_all(raw_request(url, json.dumps(request_body(stream=True)).encode()))
        await stalled.receive_some(10)
        await trio.sleep(0.2)
        assert doors.running == 1
        begun = trio.current_time()
    assert trio.current_time() - begun < 2
    await stalled.aclose()
    assert doors.running == 0


async def test_a_client_that_reads_late_gets_every_byte(monkeypatch):
    monkeypatch.setattr("meshnode.api.sse.KEEP_ALIVE_S", 0.05)  # signs of life, too, between the chunks
    texts = [chr(97 + number % 26) * 100_000 for number in range(60)]  # more than the system's buffers take
    doors = FakeDoors([*(piece(number, text) for number, text in enumerate(texts)), 0.2, END])
    async with serving(doors) as url, await connect(url) as talk:
        await talk.send_all(raw_request(url, json.dumps({**CHAT, "stream": True}).encode()))
        await trio.sleep(0.3)
        events, client = [], h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        client.send(h11.EndOfMessage())
        while not events or not isinstance(events[-1], h11.EndOfMessage):
            if (event := client.next_event()) is h11.NEED_DATA:
                client.receive_data(bytes(await talk.receive_some(65536)))
            else:
                events.append(event)
    body = b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data)).decode()
    chunks = [json.loads(line[6:]) for line in body.split("\n\n") if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "".join(texts)
    assert body.count(": keep-alive") > 0
    assert body.endswith("data: [DONE]\n\n")


async def test_a_client_that_does_not_read_loses_its_run(monkeypatch):
    monkeypatch.setattr(server, "WRITE_STALL_S", 0.2)
    doors = FakeDoors([*(piece(index, "x" * 500_000) for index in range(100)), END])
    async with serving(doors) as url:
        stalled = await connect(url)
        await stalled.send_all(raw_request(url, json.dumps(request_body(stream=True)).encode()))
        await stalled.receive_some(10)
        assert doors.running == 1
        with trio.fail_after(3):
            await doors.left.wait()
        await stalled.aclose()


async def test_a_cancelled_server_ends_too(monkeypatch):
    monkeypatch.setattr(server, "GRACE_S", 0.2)
    doors = FakeDoors([*(piece(index, "x" * 500_000) for index in range(100)), END])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            serve = partial(server.serve, build(doors), host="127.0.0.1", port=0, shutdown=trio.Event())
            url = await nursery.start(serve)
            stalled = await connect(url)
            await stalled.send_all(raw_request(url, json.dumps(request_body(stream=True)).encode()))
            await stalled.receive_some(10)
            nursery.cancel_scope.cancel()
    await stalled.aclose()
    assert doors.running == 0


async def test_at_the_bound_the_connection_that_was_idle_longest_gives_way(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    async with serving(FakeDoors()) as url:
        oldest = await connect(url)
        await trio.sleep(0.02)
        younger = await connect(url)
        await trio.sleep(0.02)
        await all_closed(url)  # a third one is served
        with trio.fail_after(2):
            assert await oldest.receive_some(1) == b""
        await younger.send_all(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port_of(url)}\r\n\r\n".encode())
        assert (await younger.receive_some(100)).startswith(b"HTTP/1.1 200")
        for stream in (oldest, younger):
            await stream.aclose()


async def test_where_all_connections_are_busy_one_more_is_told_so(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    async with serving(FakeDoors([piece(0, "x"), 1000.0])) as url:
        busy = [await connect(url) for _ in range(2)]
        for stream in busy:
            await stream.send_all(raw_request(url, json.dumps(request_body(stream=True)).encode()))
            await stream.receive_some(10)
        refused = await connect(url)
        answer = b""
        with trio.fail_after(2):
            while part := await refused.receive_some(1000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer
        for stream in (*busy, refused):
            await stream.aclose()


async def test_a_taken_port_says_by_whom():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"{port} on 127.0.0.1 is taken.*pid \d+") as caught:
            await server.serve(build(FakeDoors()), host="127.0.0.1", port=port, shutdown=trio.Event())
    assert "--api-port" in caught.value.hint


async def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ConfigInvalid):
        await server.listen("192.0.2.1", 0)
