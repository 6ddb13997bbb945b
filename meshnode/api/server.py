"""The HTTP server: hypercorn's protocol code on trio, in a loop of our own that can bound and end everything.

Hypercorn's own loop shields its writes from cancellation, so one client that stops reading would hold up a
shutdown for ever. Here every write has a time limit, connections are counted, and the shutdown event reaches
the application (through the ASGI state) so that streams end with an error instead of a cut.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, cast

import psutil
import trio
from hypercorn.config import Config as Hypercorn
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp, Receive, Scope, Send

from meshnode.api.exchange import CLOSING, TRANSPORT
from meshnode.api.guard import HEAD_BYTES_MAX
from meshnode.api.traffic import Traffic
from meshnode.errors import ConfigInvalid, MeshError, PortInUse
from meshnode.observe import log

CONNECTIONS_MAX = 256
TURNED_AWAY_MAX = 32  # connections beyond those that are still told why
TURNED_AWAY_S = 1.0
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
WRITE_STALL_S = 20.0
GRACE_S = 3.0  # for streams to say that they end, when the server does
KEEP_ALIVE_S = 75.0  # longer than clients keep idle connections, so that none is closed under a request
BACKLOG = 128
ENDS = (b"", b"0\r\n\r\n")  # what h11 makes of a body's end, by its known length or in chunks

_logger = log.get("api")


async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    shutdown: trio.Event,
    traffic: Traffic | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set, then end within GRACE_S; starts with the address as a URL.

    While `traffic` drains, connections close after the answer that is under way on them, and idle ones at once.
    Port 0 takes any free port. Raises PortInUse, which names the holder where the system tells, or
    ConfigInvalid when the address is not one of this machine's.
    """
    listeners = await listen(host, port)
    server = _Server(app, shutdown)
    drained = traffic.draining if traffic else shutdown
    async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
        accepting.start_soon(
            partial(trio.serve_listeners, server.talk, listeners, handler_nursery=connections)
        )
        accepting.start_soon(server.let_go_when, drained)
        try:
            task_status.started(_url(listeners[0]))
            await shutdown.wait()
        finally:
            connections.cancel_scope.deadline = await server.end()
        accepting.cancel_scope.cancel()


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listeners on every address of `host`. Raises PortInUse or ConfigInvalid."""
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise _not_listening(host, port, error) from error


def port_holder(port: int) -> str:
    """Who listens on this TCP port, as `name (pid 1234)`; empty when the system does not tell."""
    facts = cast("Any", psutil)  # it has no types
    try:
        sockets = facts.net_connections(kind="tcp")
        listening = [item for item in sockets if item.status == psutil.CONN_LISTEN and item.pid]
        pids = [item.pid for item in listening if item.laddr.port == port]
        return f"{facts.Process(pids[0]).name()} (pid {pids[0]})" if pids else ""
    except (psutil.Error, OSError):
        return ""


class BoundedStream:
    """A TCP stream whose writes fail when the other end stops reading: what hypercorn needs, and a short way."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.context = WorkerContext(max_requests=None)
        self._write = trio.CancelScope()
        self._last_write_at = math.inf
        self._held: list[bytes] | None = None
        self.socket = stream.socket
        self.under_way = 0  # requests
        self.leaving = False
        self.idle_since = trio.current_time()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """For as long as a request is under way on it."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self.idle_since = trio.current_time()

    @asynccontextmanager
    async def in_one(self) -> AsyncIterator[None]:
        """What hypercorn sends meanwhile leaves in one write: a head and a body, up to where the body ends."""
        self._held = []
        try:
            yield
        finally:
            await self._release()

    async def _release(self) -> None:
        held, self._held = self._held, None
        if held:
            await self.write(b"".join(held))

    async def send_all(self, data: bytes) -> None:
        """Write all of it within WRITE_STALL_S. Raises BrokenResourceError, and closes, when it cannot."""
        if self._held is not None:
            self._held.append(data)
            if data in ENDS:
                await self._release()
            return
        until = min(trio.current_time() + WRITE_STALL_S, self._last_write_at)
        with trio.CancelScope(deadline=until) as self._write:
            await self._stream.send_all(data)
            return
        await self._stream.aclose()
        raise trio.BrokenResourceError("the client stopped reading")

    async def write(self, data: bytes) -> None:
        """Write all of it, at once if the system takes it; for what goes past hypercorn.

        It cannot be cut by a cancellation. What goes wrong here hypercorn sees when it reads.
        """
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            sent = self._write_now(data)
            if sent < len(data):
                with trio.CancelScope(shield=True):
                    await self.send_all(data[sent:])

    def _write_now(self, data: bytes) -> int:
        """How much of it the system took."""
        try:
            return os.write(self.socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error

    def no_writes_after(self, moment: float) -> None:
        """Let every write, also one under way, end by this time."""
        self._last_write_at = moment
        self._write.deadline = min(self._write.deadline, moment)

    async def receive_some(self, max_bytes: int) -> bytes:
        """Read what there is, at most this much; at the end, let go of what waits for a next request."""
        data = b""
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        finally:
            if not data:
                await self.context.terminated.set()
        return data

    async def send_eof(self) -> None:
        """Say that nothing more will come; also for an application that was cancelled when it had said it all."""
        await self._release()
        with trio.CancelScope(shield=True):  # it never waits
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._release()
        await self._stream.aclose()


class _Server:
    """The open connections, and what they share."""

    def __init__(self, app: ASGIApp, shutdown: trio.Event) -> None:
        self._settings = _hypercorn_settings()
        self._app = wrap_app(cast("Any", _noting_use(app)), self._settings.wsgi_max_body_size, "asgi")
        self._shutdown = shutdown
        self._streams: dict[int, BoundedStream] = {}
        self._turned_away = 0

    async def talk(self, raw: trio.SocketStream) -> None:
        """One connection from its first byte to its close; whatever goes wrong ends here."""
        staying = sum(not stream.leaving for stream in self._streams.values())
        if staying >= CONNECTIONS_MAX and not await self._made_room():
            await self._turn_away(raw)
            return
        stream = BoundedStream(raw)
        self._streams[id(stream)] = stream
        try:
            await self._speak(stream)
        except Exception:
            _logger.exception("connection failed")
        finally:
            del self._streams[id(stream)]

    async def _speak(self, stream: BoundedStream) -> None:
        state = ConnectionState({CLOSING: self._shutdown, TRANSPORT: stream})
        # A context for each connection: hypercorn's would keep a closed one open until its idle time is over.
        talk = TCPServer(self._app, self._settings, stream.context, state, cast("Any", stream))
        await talk.run()

    async def _made_room(self) -> bool:
        """Whether a connection without a request gives way: the one that has been so for longest."""
        idle = [stream for stream in self._streams.values() if not (stream.under_way or stream.leaving)]
        if not idle:
            return False
        longest = min(idle, key=lambda stream: stream.idle_since)
        longest.leaving = True
        await longest.context.terminated.set()
        return True

    async def _turn_away(self, raw: trio.SocketStream) -> None:
        """Say that there is no room, as far as the client listens, and close."""
        if self._turned_away < TURNED_AWAY_MAX:
            self._turned_away += 1
            with trio.move_on_after(TURNED_AWAY_S), suppress(trio.BrokenResourceError):
                await raw.send_all(FULL)
                await raw.send_eof()
                while await raw.receive_some():
                    pass  # a close with something unread would take the answer back
            self._turned_away -= 1
        await trio.aclose_forcefully(raw)

    async def let_go_when(self, event: trio.Event) -> None:
        """When that happens: close idle connections, and busy ones after the answer that is under way."""
        await event.wait()
        for stream in tuple(self._streams.values()):
            await stream.context.terminated.set()

    async def end(self) -> float:
        """Close idle connections now and let busy ones end; gives the time (trio's) when all will be over."""
        over = trio.current_time() + GRACE_S
        for stream in tuple(self._streams.values()):
            await stream.context.terminated.set()
            stream.no_writes_after(over)
        return over


def _noting_use(app: ASGIApp) -> ASGIApp:
    """The application, with each request counted on its connection."""

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        stream = scope.get("state", {}).get(TRANSPORT)
        with stream.in_use() if stream else nullcontext():
            await app(scope, receive, send)

    return noting


def _hypercorn_settings() -> Hypercorn:
    settings = Hypercorn()
    settings.accesslog = None
    settings.errorlog = None  # the application reports what fails in it
    settings.include_server_header = False
    settings.keep_alive_timeout = KEEP_ALIVE_S
    settings.h11_max_incomplete_size = HEAD_BYTES_MAX
    return settings


def _not_listening(host: str, port: int, error: OSError) -> MeshError:
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port)
        by = f" by {holder}" if holder else ""
        return PortInUse(
            f"Port {port} on {host} is taken{by}.",
            hint="Stop that program or choose another port with --api-port.",
            param="api_port",
        )
    return ConfigInvalid(f"The API cannot listen on {host}:{port}: {error.strerror}.", param="api_host")


def _url(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
