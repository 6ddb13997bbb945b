"""Wrong input at the real doors: what is said, how it ends, and that nothing is left running."""

import http.server
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from meshnode import open_node
from meshnode.errors import EngineFailed
from meshnode.seams import Seams
from meshnode.testing.processes import NodeProcess, node_process
from tests.e2e.world import (
    HANG_S,
    MODEL,
    Line,
    command,
    completion,
    posted,
    surroundings,
    taken_port,
)

# More than any context that the model is given.
TOO_LONG = "word " * 40_000
UP = ("up", "--engine", "none", "--api-port", "0", "--mesh-port", "0", "--mesh-host", "127.0.0.1")
JOIN = ("join", *UP[1:])


@pytest.fixture(autouse=True)
async def no_hang() -> AsyncIterator[None]:
    """A hang is a failure."""
    with trio.fail_after(HANG_S):
        yield


@asynccontextmanager
async def founder(home: Path) -> AsyncIterator[NodeProcess]:
    """A node without a model that has founded a mesh."""
    async with node_process(home, ("--engine", "none"), env=surroundings()) as node:
        await node.mesh_address()
        yield node


# --- At the API ---


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "smollm2:135m", "messages": [', "body"),
        (b'{"model": "smollm2:135m"}', "messages"),
        (b'{"model": "smollm2:135m", "messages": []}', "messages"),
        (b'{"model": "smollm2:135m", "messages": "hello"}', "messages"),
        (b"\xff\xfe", "body"),
    ],
    ids=["malformed JSON", "no messages", "empty messages", "messages as text", "no text at all"],
)
@pytest.mark.model
async def test_a_malformed_request_is_refused_and_names_the_field(line: Line, body: bytes, param: str):
    status, error = await posted(await line.a.api_url(), body)
    assert (status, error["code"], error["type"]) == (400, "invalid_request", "invalid_request_error")
    assert error["param"] == param
    assert error["message"]


@pytest.mark.model
async def test_an_unknown_model_is_404_and_exit_30(line: Line):
    body = msgspec.json.encode({**completion("Hello."), "model": "nonesuch:7b"})
    status, error = await posted(await line.a.api_url(), body)
    assert (status, error["code"]) == (404, "model_not_found")
    assert "nonesuch:7b" in error["message"]
    ended = await command("run", "nonesuch:7b", "Hello.", "--home", str(line.a.home))
    assert ended.code == 30
    assert "nonesuch:7b" in ended.err


@pytest.mark.model
@pytest.mark.parametrize("name", ["a", "c"], ids=["two hops away", "at the model's own node"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_longer_than_the_context_is_refused(line: Line, name: str, stream: bool):
    body = msgspec.json.encode({**completion(TOO_LONG), "stream": stream})
    status, error = await posted(await getattr(line, name).api_url(), body)
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert (await line.c.until(lambda seen: seen.engine.in_flight == 0)).state == "ready"


@pytest.mark.model
async def test_a_prompt_longer_than_the_context_is_exit_2(line: Line):
    ended = await command("run", MODEL, "--home", str(line.a.home), stdin=TOO_LONG)
    assert ended.code == 2
    assert "context" in ended.err


# --- Tickets ---


@pytest.mark.parametrize("ticket", ["garbage", "mesh1garbage", "mesh1", "ws://", "http://127.0.0.1:1"])
async def test_a_garbage_ticket_is_exit_11(tmp_path: Path, ticket: str):
    ended = await command(*JOIN, ticket, "--home", str(tmp_path / "home"))
    assert ended.code == 11
    assert ended.err.startswith("error: ")
    assert "hint: " in ended.err
    assert not (tmp_path / "home").exists()


async def test_an_expired_ticket_is_exit_12(tmp_path: Path):
    an_hour_ago = Seams(wall=lambda: time.time() - 3600)
    flags = {"home": tmp_path / "A", "engine": "none", "mesh_host": "127.0.0.1", "mesh_port": 0}
    async with open_node(seams=an_hour_ago, **flags) as node:
        ticket = await node.invite(expires_s=60)
        ended = await command(*JOIN, ticket, "--home", str(tmp_path / "B"))
    assert ended.code == 12
    assert "expired" in ended.err


async def test_a_used_ticket_is_exit_13(tmp_path: Path):
    async with founder(tmp_path / "A") as issuer, founder(tmp_path / "B") as first:
        ticket = await issuer.invite()
        await first.call("join", target=ticket, leave=False)
        ended = await command(*JOIN, ticket, "--home", str(tmp_path / "C"))
    assert ended.code == 13
    assert "ticket" in ended.err


async def test_a_ticket_for_another_mesh_is_exit_22(tmp_path: Path):
    async with founder(tmp_path / "A") as issuer, founder(tmp_path / "B") as stranger:
        address = await stranger.mesh_address()
        ended = await command(*JOIN, await issuer.invite(), "--via", address, "--home", str(tmp_path / "C"))
        assert (await stranger.snapshot()).links == ()
    assert ended.code == 22
    assert "mesh" in ended.err


# --- Ports and homes ---


@pytest.mark.parametrize("option", ["--api-port", "--mesh-port"])
async def test_a_taken_port_is_exit_6_and_names_who_has_it(tmp_path: Path, option: str):
    with taken_port() as port:
        ended = await command(*UP, option, str(port), "--home", str(tmp_path))
    assert ended.code == 6
    assert f"Port {port}" in ended.err
    assert f"pid {os.getpid()}" in ended.err


async def test_a_home_that_cannot_be_written_is_exit_4(tmp_path: Path):
    (tmp_path / "file").write_text("not a directory")
    ended = await command(*UP, "--home", str(tmp_path / "file" / "home"))
    assert ended.code == 4
    assert str(tmp_path / "file" / "home") in ended.err


async def test_a_home_in_use_is_exit_5_and_says_where_the_node_is(tmp_path: Path):
    async with founder(tmp_path) as node:
        ended = await command(*UP, "--home", str(tmp_path))
        assert ended.code == 5
        assert await node.api_url() in ended.err
        assert (await node.snapshot()).state == "ready"


# --- Models ---


async def test_a_truncated_model_file_is_exit_31(model_file: Path, tmp_path: Path):
    with model_file.open("rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(20_000_000))
    ended = await command("pull", str(tmp_path / "cut.gguf"), "--home", str(tmp_path / "home"))
    assert ended.code == 31
    assert "truncated" in ended.err or "shorter" in ended.err
    assert not list((tmp_path / "home").rglob("sha256-*"))


async def test_a_model_file_with_the_wrong_digest_is_exit_31(model_file: Path, tmp_path: Path):
    arguments = ("pull", str(model_file), "--sha256", "0" * 64)
    ended = await command(*arguments, "--home", str(tmp_path / "home"))
    assert ended.code == 31
    assert "0" * 64 in ended.err
    assert not list((tmp_path / "home").rglob("sha256-*"))


async def test_a_node_whose_model_file_was_cut_says_so_and_serves_on(model_file: Path, tmp_path: Path):
    """The API stays; a request gets the reason, and repairing needs no more than what the hint says."""
    home = tmp_path / "home"
    cache = str(tmp_path / "cache")
    pulled = await command("pull", str(model_file), "--home", str(home), "--json", XDG_CACHE_HOME=cache)
    assert pulled.code == 0
    name = msgspec.json.decode(pulled.out.splitlines()[-1])["name"]
    (blob,) = (home / "models" / "blobs").iterdir()
    blob.chmod(0o600)
    os.truncate(blob, 20_000_000)
    env = surroundings(XDG_CACHE_HOME=cache)
    async with node_process(home, ("--model", name), env=env) as node:
        with pytest.raises(EngineFailed, match="damaged"):
            await node.until_ready()
        status, error = await posted(await node.api_url(), msgspec.json.encode(completion("Hello.")))
        assert status in (404, 503)
        assert error["message"]


# --- Settings ---


async def test_an_unknown_flag_is_exit_2(tmp_path: Path):
    ended = await command(*UP, "--api-prot", "1", "--home", str(tmp_path))
    assert ended.code == 2
    assert "--api-prot" in ended.err
    assert "--api-port" in ended.err


async def test_an_unknown_setting_in_the_file_is_exit_2(tmp_path: Path):
    (tmp_path / "config.toml").write_text("api_prot = 1\n")
    ended = await command(*UP, "--home", str(tmp_path))
    assert ended.code == 2
    assert "api_prot" in ended.err
    assert "Did you mean api_port?" in ended.err


async def test_an_unknown_setting_in_the_environment_is_exit_2(tmp_path: Path):
    ended = await command(*UP, "--home", str(tmp_path), MESHNODE_API_PROT="1")
    assert ended.code == 2
    assert "MESHNODE_API_PROT" in ended.err


# --- Peers that speak something else ---


@contextmanager
def web_server() -> Iterator[int]:
    """A plain HTTP server; gives its port."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<h1>It works!</h1>")

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def babbler(noise: bytes = b"\x80" * 4096) -> Iterator[int]:
    """A server that sends noise to whoever connects and then closes; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(noise)
                    connection.settimeout(1.0)
                    try:
                        connection.recv(65_536)
                    except OSError:
                        continue

        thread = threading.Thread(target=babble)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def babbler_in_lines() -> Iterator[int]:
    """The same with line ends, which make it look like a head of HTTP that makes no sense."""
    with babbler(b"\x80\r\n\r\n" * 512) as port:
        yield port


@pytest.mark.parametrize("server", [web_server, babbler, babbler_in_lines])
async def test_what_is_no_node_is_exit_21(tmp_path: Path, server):
    async with founder(tmp_path / "A") as issuer:
        ticket = await issuer.invite()
        with server() as port:
            address = f"ws://127.0.0.1:{port}"
            ended = await command(*JOIN, ticket, "--via", address, "--home", str(tmp_path / "B"))
    assert ended.code == 21
    assert address in ended.err


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00" * 4096,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["a browser", "zeros", "TLS"],
)
async def test_noise_at_the_mesh_port_is_cut_off_and_does_no_harm(tmp_path: Path, noise: bytes):
    async with founder(tmp_path) as node:
        port = int((await node.mesh_address()).rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(noise)
            with trio.fail_after(15):
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        assert (await node.snapshot()).links == ()
        assert await node.invite()
    assert "Traceback" not in node.log_tail()
