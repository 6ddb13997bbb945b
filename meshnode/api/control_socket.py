"""The control socket: how commands on this machine reach the running node. One JSON object a line, both ways.

A request is `{"verb", "args"}`; the answer is any number of `{"event"…}` lines and one `{"result"}` or
`{"error"}`. It knows no verb: the table is handed in. The file's mode is what keeps other users out.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import trio

from meshnode.control.verbs import Verb
from meshnode.errors import BadRequest, HomeUnusable, MeshError, as_mesh_error
from meshnode.observe import log

SOCKET_NAME = "control.sock"
PATH_BYTES_MAX = 100  # 104 on macOS, 108 on Linux, both with their terminating zero
LINE_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 4 * 1024 * 1024
CONNECTIONS_MAX = 32
REQUESTS_WAITING = 4
WRITE_STALL_S = 10.0
BACKLOG = 16

logger = log.get("control")


class Request(msgspec.Struct, frozen=True):
    """One line from a client."""

    verb: str
    args: dict[str, object] = {}


class Failure(msgspec.Struct, frozen=True):
    """A MeshError on its way to another process."""

    code: str
    message: str
    hint: str = ""
    param: str = ""
    retry_after_s: float | None = None


def socket_path(home: Path) -> Path:
    """Where this home's socket is: in it, or in the temporary place if that path is too long for a socket."""
    inside = home / SOCKET_NAME
    if len(os.fsencode(inside)) <= PATH_BYTES_MAX:
        return inside
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"meshnode-{os.getuid()}-{digest}.sock"


async def serve(
    home: Path,
    verbs: Mapping[str, Verb],
    *,
    task_status: trio.TaskStatus[Path] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on this home's socket until cancelled; starts with its path. The caller holds the home's lock.

    Raises HomeUnusable when the socket cannot be made.
    """
    path = socket_path(home)
    table = _Table(verbs)
    with _listening(path) as listener:
        task_status.started(path)
        await trio.serve_listeners(table.talk, [listener])


class _Table:
    """The verbs, and how many clients there are."""

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        self._verbs = verbs
        self._open = 0

    async def talk(self, stream: trio.SocketStream) -> None:
        """One client, one request after another; when it leaves, what it waits for is cancelled."""
        self._open += 1
        try:
            async with stream:
                if self._open <= CONNECTIONS_MAX:
                    await self._answer_all(stream)
        finally:
            self._open -= 1

    async def _answer_all(self, stream: trio.SocketStream) -> None:
        send, receive = trio.open_memory_channel[bytes](REQUESTS_WAITING)
        async with trio.open_nursery() as nursery, receive:
            client = _Client(stream, nursery.cancel_scope)
            nursery.start_soon(_read_lines, stream, send, nursery.cancel_scope)
            async for line in receive:
                await self._answer(line, client)
            nursery.cancel_scope.cancel()

    async def _answer(self, line: bytes, client: _Client) -> None:
        try:
            request = _decoded(line)
            result = await self._verb(request.verb)(request.args, client.write)
            await client.write({"result": result})
        except Exception as error:
            known = as_mesh_error(error)
            if known is None:
                logger.exception("verb failed")
                known = MeshError("Something went wrong inside the node.", hint=f"See {log.FILE_NAME}.")
            await client.write({"error": failure_of(known)})

    def _verb(self, name: str) -> Verb:
        if name not in self._verbs:
            known = ", ".join(sorted(self._verbs))
            raise BadRequest(f"There is no verb {name[:40]!r}.", hint=f"There are: {known}.", param="verb")
        return self._verbs[name]


class _Client:
    """The writing side of one connection."""

    def __init__(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        self._stream = stream
        self._scope = scope

    async def write(self, line: dict[str, object]) -> None:
        """One line. A client that is gone or does not read has its request cancelled, right here."""
        data = msgspec.json.encode(line) + b"\n"
        with trio.move_on_after(WRITE_STALL_S), suppress(trio.BrokenResourceError):
            await self._stream.send_all(data)
            return
        self._scope.cancel()
        await trio.lowlevel.checkpoint()


async def _read_lines(
    stream: trio.SocketStream, out: trio.MemorySendChannel[bytes], scope: trio.CancelScope
) -> None:
    """Pass lines on, until the client leaves (which cancels all) or sends one that is too long (the last)."""
    waiting = b""
    async with out:
        while len(waiting) <= LINE_BYTES_MAX:
            data = b""
            with suppress(trio.BrokenResourceError):
                data = await stream.receive_some(LINE_BYTES_MAX)
            if not data:
                scope.cancel()
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                await out.send(line)
        await out.send(waiting)


def _decoded(line: bytes) -> Request:
    if len(line) > LINE_BYTES_MAX:
        raise BadRequest(f"A request is at most {LINE_BYTES_MAX} bytes long.")
    try:
        return msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"A request is one JSON object a line: {error}.") from error


def failure_of(error: MeshError) -> Failure:
    """The error as data."""
    return Failure(error.code, error.message, error.hint, error.param, error.retry_after_s)


@contextmanager
def _listening(path: Path) -> Iterator[trio.SocketListener]:
    """A listener that only this user can reach; the file is there exactly while it listens."""
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)  # left by a node that was killed: the lock says that none runs
        before = os.umask(0o177)
        try:
            raw.bind(os.fspath(path))
        finally:
            os.umask(before)
        raw.listen(BACKLOG)
    except OSError as error:
        raw.close()
        raise HomeUnusable(f"The control socket {path} cannot be made: {error.strerror}.") from error
    try:
        yield trio.SocketListener(trio.socket.from_stdlib_socket(raw))
    finally:
        raw.close()
        path.unlink(missing_ok=True)
