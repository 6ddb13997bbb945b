"""The HTTP server: hypercorn's protocol code on trio, in a loop of our own that can bound and end everything.

Hypercorn's own loop shields its writes from cancellation, so one client that stops reading would hold up a
shutdown for ever. Here every write has a time limit, connections are counted, and the shutdown event reaches
the application (through the ASGI state) so that streams end with an error instead of a cut.
"""

from __future__ import annotations

import errno
import math
import os
from contextlib import suppress
from functools import partial
from typing import Any, cast

import psutil
import trio
from hypercorn.config import Config as Hypercorn
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp

from meshnode.api.exchange import CLOSING, TRANSPORT
from meshnode.errors import ConfigInvalid, MeshError, PortInUse
from meshnode.observe import log

CONNECTIONS_MAX = 256
WRITE_STALL_S = 20.0
GRACE_S = 3.0  # for streams to say that they end, when the server does
KEEP_ALIVE_S = 75.0  # longer than clients keep idle connections, so that none is closed under a request
HEAD_BYTES_MAX = 32 * 1024
BACKLOG = 128

_logger = log.get("api")


async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set, then end within GRACE_S; starts with the address as a URL.

    Port 0 takes any free port. Raises PortInUse, which names the holder where the system tells, or
    ConfigInvalid when the address is not one of this machine's.
    """
    listeners = await listen(host, port)
    server = _Server(app, shutdown)
    async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
        accepting.start_soon(
            partial(trio.serve_listeners, server.talk, listeners, handler_nursery=connections)
        )
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
        self.socket = stream.socket

    async def send_all(self, data: bytes) -> None:
        """Write all of it within WRITE_STALL_S. Raises BrokenResourceError, and closes, when it cannot."""
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
        with trio.CancelScope(shield=True):  # it never waits
            await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()


class _Server:
    """The open connections, and what they share."""

    def __init__(self, app: ASGIApp, shutdown: trio.Event) -> None:
        self._settings = _hypercorn_settings()
        self._app = wrap_app(cast("Any", app), self._settings.wsgi_max_body_size, "asgi")
        self._shutdown = shutdown
        self._streams: dict[int, BoundedStream] = {}

    async def talk(self, raw: trio.SocketStream) -> None:
        """One connection from its first byte to its close; whatever goes wrong ends here."""
        if len(self._streams) >= CONNECTIONS_MAX:
            await raw.aclose()
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

    async def end(self) -> float:
        """Close idle connections now and let busy ones end; gives the time (trio's) when all will be over."""
        over = trio.current_time() + GRACE_S
        for stream in self._streams.values():
            await stream.context.terminated.set()
            stream.no_writes_after(over)
        return over


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
