"""What these tests are played on: lines of node processes, commands, and a look at what still runs."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h11
import httpx2
import msgspec
import psutil
import trio

from meshnode.testing.processes import UP, NodeProcess, node_process

MODEL = "smollm2:135m"
OBSERVED = (str(Path(__file__).with_name("observed_node.py")),)
HANG_S = 60.0  # for whatever has no figure of its own: longer than anything takes that works
COMMAND_S = 30.0
MARK = "LLAMA_E2E_MARK"  # by this beginning it is let into the sandbox too
WORKER = "meshnode.engine.worker"
T = TypeVar("T")


@dataclass
class Line:
    """Three nodes: A and B have no model, C has; A reaches C only through B."""

    a: NodeProcess
    b: NodeProcess
    c: NodeProcess


@asynccontextmanager
async def raised_line(
    root: Path, *, program: Sequence[str] = UP, options: Sequence[str] = ()
) -> AsyncIterator[Line]:
    """A founds and invites; B joins; C joins A's mesh through B. All is ready once A has heard of C's model."""
    env = surroundings(MESHNODE_DISCOVER="false")

    def node(name: str, engine: str) -> AbstractAsyncContextManager[NodeProcess]:
        arguments = ("--name", name, "--engine", engine, *options)
        return node_process(root / name, arguments, program=program, env=env)

    async with node("A", "none") as a, node("B", "none") as b, node("C", "llama") as c:
        with trio.fail_after(HANG_S):
            await a.mesh_address()
            await join(b, a, via=a)
            await join(c, a, via=b)
            await a.until(has_model)
        yield Line(a, b, c)


async def join(node: NodeProcess, issuer: NodeProcess, via: NodeProcess) -> None:
    """Let a node join the issuer's mesh, by asking at another member."""
    await node.mesh_address()
    await node.call("join", target=await issuer.invite(), leave=False, via=await via.mesh_address())


def has_model(seen) -> bool:
    """Whether a snapshot knows of a model that somebody runs."""
    return any(model.nodes for model in seen.models)


@contextmanager
def in_background(make: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """An async context held open by a thread of its own, so that many tests can share what it gives."""
    came, done = threading.Event(), trio.Event()
    given: list[T] = []
    token: list[trio.lowlevel.TrioToken] = []
    failures: list[BaseException] = []

    async def hold() -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with make() as it:
            given.append(it)
            came.set()
            await done.wait()

    def live() -> None:
        try:
            trio.run(hold)
        except BaseException as error:
            failures.append(error)
        came.set()

    thread = threading.Thread(target=live)
    thread.start()
    came.wait()
    try:
        if given:
            yield given[0]
    finally:
        if not failures:
            token[0].run_sync_soon(done.set)
        thread.join()
    if failures:
        raise failures[0]


def surroundings(**more: str) -> dict[str, str]:
    """The environment of a process: ours without what would set up a node, and with this checkout's code."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MESHNODE_")}
    return {**clean, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


async def command(*arguments: str, stdin: str = "", **more_env: str) -> Outcome:
    """Run `meshnode …` to its end, and see that it leaves nothing running."""
    mark = os.urandom(8).hex()
    done = await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-m", "meshnode.cli.main", *arguments],
            env=surroundings(**{MARK: mark}, **more_env),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
    )
    assert marked(mark) == []
    assert "Traceback" not in done.stderr, done.stderr
    return Outcome(done.returncode, done.stdout, done.stderr)


def marked(mark: str) -> list[psutil.Process]:
    """Every living process that was started with this mark, or by one that was."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def family(node: NodeProcess) -> list[psutil.Process]:
    """A node's process and all that it has started, whatever their environment: a sandbox clears it."""
    process = psutil.Process(node.process.pid)
    return [process, *process.children(recursive=True)]


async def all_gone(processes: Iterable[psutil.Process], within_s: float) -> None:
    """Wait for the end of all of them."""
    for process in processes:
        await gone(process, within_s)


def worker_of(node: NodeProcess) -> psutil.Process:
    """The process that runs a node's model."""
    children = psutil.Process(node.process.pid).children()
    (worker,) = [child for child in children if WORKER in child.cmdline()]
    return worker


async def gone(process: psutil.Process, within_s: float) -> None:
    """Wait for the end of a process that may be nobody's child any more."""
    with trio.fail_after(within_s):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await trio.sleep(0.02)


@contextmanager
def taken_port() -> Iterator[int]:
    """A port on loopback that somebody listens on and never answers at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def free_port() -> int:
    """A port that nobody listens on just now."""
    with taken_port() as port:
        return port


def completion(prompt: str, **more: Any) -> dict[str, Any]:
    """The body of a streamed chat completion that draws no lots, and is computed each time."""
    turns = [{"role": "user", "content": prompt}]
    fixed = {"model": MODEL, "messages": turns, "stream": True, "temperature": 0, "max_tokens": 32}
    return {**fixed, "mesh": {"cache": "off"}, **more}


class Events:
    """The server-sent events of one streamed answer, as they come, read from the socket by h11 alone."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self._socket = socket
        self._http = h11.Connection(h11.CLIENT)
        self._waiting = b""

    async def ask(self, host: str, body: dict[str, Any]) -> None:
        """Send the request and take the head of the answer."""
        content = msgspec.json.encode(body)
        headers = {"host": host, "content-type": "application/json", "content-length": str(len(content))}
        request = h11.Request(method="POST", target="/v1/chat/completions", headers=list(headers.items()))
        for part in (request, h11.Data(content), h11.EndOfMessage()):
            await self._socket.send_all(self._http.send(part))
        head = await self._next()
        assert isinstance(head, h11.Response)
        assert head.status_code == 200, await self._next()

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._socket.receive_some())
        return event

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Any:
        while b"\n\n" not in self._waiting:
            part = await self._next()
            if isinstance(part, h11.EndOfMessage):
                assert self._waiting == b""
                raise StopAsyncIteration
            self._waiting += part.data
        block, _, self._waiting = self._waiting.partition(b"\n\n")
        if block.startswith(b":"):  # a comment that keeps the connection alive
            return await anext(self)
        event = block.removeprefix(b"data: ")
        return event.decode() if event == b"[DONE]" else msgspec.json.decode(event)

    async def texts(self, count: int) -> None:
        """Wait for the first pieces of the answer."""
        async for event in self:
            count -= bool(event["choices"][0]["delta"].get("content"))
            if not count:
                return

    async def rest(self) -> list[Any]:
        """All that are left, decoded; `[DONE]` stays text."""
        return [event async for event in self]


@asynccontextmanager
async def streamed(url: str, body: dict[str, Any]) -> AsyncIterator[Events]:
    """A streamed answer of the API; leaving disconnects."""
    host = url.removeprefix("http://")
    name, _, port = host.rpartition(":")
    async with await trio.open_tcp_stream(name, int(port)) as stream:
        events = Events(stream)
        await events.ask(host, body)
        yield events


async def posted(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """The status and the error of a completion that is refused."""
    async with httpx2.AsyncClient(timeout=HANG_S, trust_env=False) as client:
        headers = {"content-type": "application/json"}
        response = await client.post(f"{url}/v1/chat/completions", content=body, headers=headers)
        return response.status_code, response.json()["error"]
