"""What the API bounds, each against a real socket: size, headers, time, number, pages from elsewhere, and its end."""

import io
import json
import tracemalloc

import httpx2
import pytest
import trio

from meshnode.api import guard, reception, server
from meshnode.api.guard import BODY_MAX, HEAD_BYTES_MAX, HEADERS_MAX
from meshnode.observe import log
from meshnode.seams import Seams
from tests.api.fakes import END, HELLO, FakeDoors, piece, request_body
from tests.api.keyed import keyed

HUGE = 100 * 1024 * 1024
PAGE = "https://chat.example"


def head(api, *lines, method="POST", path="/v1/chat/completions"):
    first = (f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{api.port}", "content-type: application/json")
    return "\r\n".join((*first, *lines, "", "")).encode()


async def spoken(api, data):
    """All that comes back for these bytes, until the connection ends or falls silent."""
    answer = bytearray()
    async with await trio.open_tcp_stream("127.0.0.1", api.port) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(_poured, stream, data)
        with trio.move_on_after(3):
            try:
                while part := await stream.receive_some(65536):
                    answer += part
                    if b"}}" in answer:
                        break
            except trio.BrokenResourceError:
                pass
        nursery.cancel_scope.cancel()
    return bytes(answer)


async def _poured(stream, data):
    try:
        for part in data if isinstance(data, list) else [data]:
            await stream.send_all(part)
    except trio.BrokenResourceError:
        pass


# --- size ---


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_of_100_mb_is_413_and_never_in_memory(tmp_path, declared):
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    length = f"content-length: {HUGE}" if declared else "transfer-encoding: chunked"
    async with keyed(tmp_path, FakeDoors()) as api:
        begun = [head(api, length), *([b" " * 65536 if declared else chunk] * (HUGE // 65536))]
        tracemalloc.start()
        answer = await spoken(api, begun)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"request_too_large" in answer
        assert peak < 4 * BODY_MAX
        assert await alive(api)


async def alive(api):
    async with httpx2.AsyncClient(base_url=api.url) as client:
        return (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        [f"x-{number}: a" for number in range(HEADERS_MAX + 1)],
        [f"x-{number}: {'a' * 2000}" for number in range(HEAD_BYTES_MAX // 2000 + 1)],  # in one packet
        [f"x: {'a' * 200_000}"],
    ],
)
async def test_a_flood_of_headers_is_431(tmp_path, lines):
    async with keyed(tmp_path, FakeDoors()) as api:
        assert (await spoken(api, head(api, *lines, method="GET", path="/v1/models"))).startswith(
            b"HTTP/1.1 431"
        )
        assert await alive(api)


async def test_a_head_without_end_is_431(tmp_path):
    async with keyed(tmp_path, FakeDoors()) as api:
        begun = [b"GET /v1/models HTTP/1.1\r\n", *([b"x: " + b"a" * 1000 + b"\r\n"] * 1000)]
        assert (await spoken(api, begun)).startswith(b"HTTP/1.1 431")
        assert await alive(api)


# --- time ---


async def test_a_connection_without_a_whole_request_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.3)
    async with keyed(tmp_path, FakeDoors()) as api:
        for begun in (b"", b"GET /healthz HTTP/1.1\r\nx: "):
            async with await trio.open_tcp_stream("127.0.0.1", api.port) as stream:
                await stream.send_all(begun)
                with trio.fail_after(2):
                    assert await stream.receive_some(1) == b""


async def test_a_body_that_does_not_come_is_408(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "BODY_READ_S", 0.2)
    async with keyed(tmp_path, FakeDoors()) as api:
        assert (await spoken(api, head(api, "content-length: 100") + b"{")).startswith(b"HTTP/1.1 408")


async def test_a_request_that_takes_too_long_is_504_and_its_run_is_cancelled(tmp_path, monkeypatch):
    monkeypatch.setattr(reception, "OVERTIME_S", 0.1)
    doors = FakeDoors(place_s=1000)
    async with keyed(tmp_path, doors, request_s=0.2) as api, httpx2.AsyncClient(base_url=api.url) as client:
        answer = await client.post("/v1/chat/completions", json=request_body())
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert doors.jobs[0].deadline_ms == 200
        await api.traffic.drain(2)
        assert api.traffic.under_way == 0


async def test_a_stream_that_takes_too_long_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(reception, "OVERTIME_S", 0.1)
    doors = FakeDoors([piece(0, "x"), 1000.0])
    async with keyed(tmp_path, doors, request_s=0.2) as api:
        body = json.dumps(request_body(stream=True)).encode()
        async with await trio.open_tcp_stream("127.0.0.1", api.port) as stream:
            await stream.send_all(head(api, f"content-length: {len(body)}") + body)
            received = b""
            with trio.fail_after(3):
                while part := await stream.receive_some(1000):
                    received += part
        assert b"[DONE]" not in received
        assert doors.running == 0


# --- number ---


async def test_more_requests_than_the_bound_are_told_to_come_back(tmp_path):
    released = trio.Event()
    doors = FakeDoors([piece(0, "x"), released.wait, *HELLO])
    async with keyed(tmp_path, doors, most=1) as api, httpx2.AsyncClient(base_url=api.url) as client:
        body = request_body(stream=True)
        async with client.stream("POST", "/v1/chat/completions", json=body) as first:
            lines = first.aiter_lines()
            await anext(lines)
            second = await client.post("/v1/chat/completions", json=body)
            assert (second.status_code, second.headers["retry-after"]) == (429, "1")
            assert second.json()["error"]["code"] == "busy"
            assert await alive(api)  # whoever watches over it must not think it dead
            released.set()
            assert [line async for line in lines][-2] == "data: [DONE]"
        while (third := await client.get("/v1/models")).status_code == 429:
            await trio.sleep(0.01)
        assert third.status_code == 200


# --- pages from elsewhere ---


async def preflight(api, origin, method="POST"):
    asked = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    async with httpx2.AsyncClient(base_url=api.url) as client:
        return await client.options("/v1/chat/completions", headers=asked)


async def test_no_page_from_elsewhere_may_call_unless_it_is_named(tmp_path):
    async with keyed(tmp_path, FakeDoors()) as api:
        answer = await preflight(api, PAGE)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_page_that_is_named_may_call_and_another_may_not(tmp_path):
    doors = FakeDoors()
    async with keyed(tmp_path, doors, origins=(PAGE,), require_key=True) as api:
        granted = await preflight(api, PAGE)
        assert granted.status_code == 200  # without a key: a browser sends none with it
        assert granted.headers["access-control-allow-origin"] == PAGE
        assert "x-stainless-os" in granted.headers["access-control-allow-headers"]
        assert "POST" in granted.headers["access-control-allow-methods"]
        assert (await preflight(api, PAGE, "DELETE")).status_code == 400
        for origin in ("https://evil.example", "https://chat.example.evil", "null"):
            refused = await preflight(api, origin)
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers
        async with httpx2.AsyncClient(base_url=api.url, headers={"origin": PAGE}) as client:
            without = await client.post("/v1/chat/completions", json=request_body())
            assert (without.status_code, without.headers["access-control-allow-origin"]) == (401, PAGE)
            key = {"authorization": f"Bearer {await api.key()}"}
            answer = await client.post("/v1/chat/completions", json=request_body(stream=True), headers=key)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "Origin" in answer.headers["vary"]
            assert "x-mesh-served-by" in answer.headers["access-control-expose-headers"]
    assert len(doors.jobs) == 1


# --- ids ---


@pytest.fixture
def written():
    """What is logged, as JSON lines."""
    out = io.StringIO()
    log.configure(wall=Seams().wall, out=out)
    yield out
    log.configure(wall=Seams().wall, level="warning")


@pytest.mark.parametrize("given", ["trace-7", "a" * 128, "4bf92f35:00f0/67=+_."])
async def test_a_good_request_id_is_taken_over_into_response_and_log(tmp_path, written, given):
    async with keyed(tmp_path, FakeDoors()) as api, httpx2.AsyncClient(base_url=api.url) as client:
        for path in ("/v1/models", "/v1/frob"):
            answer = await client.get(path, headers={"x-request-id": given})
            assert answer.headers.get_list("x-request-id") == [given]
        answer = await client.post(
            "/v1/chat/completions", json=request_body(stream=True), headers={"x-request-id": given}
        )
        assert answer.headers.get_list("x-request-id") == [given]
        assert answer.headers["x-mesh-job"] == "id3"
    lines = list(map(json.loads, written.getvalue().splitlines()))
    noted = [(line["request"], line["job"], line["status"]) for line in lines if line["event"] == "request"]
    assert noted == [(given, "id1", 200), (given, "id2", 404), (given, "id3", 200)]


@pytest.mark.parametrize("given", ["", "-x", "a b", "a" * 129, "ü", '"x"', "a;b"])
async def test_another_one_is_made(tmp_path, given):
    async with keyed(tmp_path, FakeDoors()) as api, httpx2.AsyncClient(base_url=api.url) as client:
        answer = await client.get("/v1/models", headers=[(b"x-request-id", given.encode())])
        assert answer.headers["x-request-id"] == "id1"
        assert "x-mesh-job" not in answer.headers


# --- the end ---


async def test_a_drain_lets_answers_end_and_begins_no_other(tmp_path):
    released = trio.Event()
    doors = FakeDoors([piece(0, "x"), released.wait, piece(1, "y"), END])
    async with keyed(tmp_path, doors) as api, httpx2.AsyncClient(base_url=api.url) as client:
        idle = await trio.open_tcp_stream("127.0.0.1", api.port)
        await trio.sleep(0.02)
        async with client.stream("POST", "/v1/chat/completions", json=request_body(stream=True)) as running:
            lines = running.aiter_lines()
            await anext(lines)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(api.traffic.drain, 10)
                with trio.fail_after(2):
                    assert await idle.receive_some(1) == b""
                async with httpx2.AsyncClient(base_url=api.url) as late:
                    refused = await late.post("/v1/chat/completions", json=request_body())
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) > 0
                assert refused.headers["connection"] == "close"
                released.set()
                rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert not any("error" in line for line in rest)
        assert len(doors.jobs) == 1
        await idle.aclose()


async def test_a_drain_waits_for_so_long_and_no_longer(tmp_path):
    doors = FakeDoors([piece(0, "x"), 1000.0])
    async with keyed(tmp_path, doors) as api, httpx2.AsyncClient(base_url=api.url) as client:
        async with client.stream("POST", "/v1/chat/completions", json=request_body(stream=True)) as running:
            lines = running.aiter_lines()
            await anext(lines)
            begun = trio.current_time()
            await api.traffic.drain(0.3)
            assert 0.3 <= trio.current_time() - begun < 1
            assert doors.running == 1
            api.shutdown.set()
            rest = [line async for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "interrupted"
