"""The real network: trio-websocket, one transport message a websocket message, nothing compressed.

Addresses are ws://host:port or wss://host:port. It compares hellos and counts strangers; it knows no frames.
"""

import errno
from collections.abc import Iterable
from functools import partial
from urllib.parse import urlsplit

import structlog
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketRequest
from wsproto import ConnectionType
from wsproto.utilities import ProtocolError

from meshnode.errors import ConfigInvalid, MeshError, Unreachable, WrongMesh, WrongProtocol
from meshnode.net.base import Accept, Hello
from meshnode.net.connection import Connection
from meshnode.net.gate import Gate
from meshnode.net.hello import agree, from_header, to_header
from meshnode.net.ports import port_in_use
from meshwire.limits import HANDSHAKE_S

SUBPROTOCOL = "meshnode.1"
HEADER = b"x-meshnode"
log = structlog.get_logger("meshnode.net.websocket")
BAD_REQUEST, CONFLICT, UPGRADE_REQUIRED = 400, 409, 426
NOT_HERE = b"This is the mesh port of a meshnode; its API is elsewhere.\n"


class WebsocketTransport:
    """One websocket."""

    def __init__(
        self, connection: Connection, remote: str, peer_hello: Hello, entry: "_Entry | None" = None
    ) -> None:
        self._connection = connection
        self._entry = entry
        self.remote = remote
        self.peer_hello = peer_hello

    async def send(self, message: bytes) -> None:
        """As `Transport.send`."""
        try:
            await self._connection.send_message(message)
        except (ConnectionClosed, ProtocolError) as error:
            raise Unreachable(f"The connection to {self.remote} is closed.") from error

    def send_now(self, message: bytes) -> bool:
        """As `Prompt.send_now`; what is wrong comes out in `send_rest`."""
        try:
            return self._connection.send_now(message)
        except (ConnectionClosed, ProtocolError):
            return False

    async def send_rest(self) -> None:
        """As `Prompt.send_rest`."""
        try:
            await self._connection.send_rest()
        except ConnectionClosed as error:
            raise Unreachable(f"The connection to {self.remote} is closed.") from error
        if self._connection.closed is not None:
            raise Unreachable(f"The connection to {self.remote} is closed.")

    async def receive(self) -> bytes:
        """As `Transport.receive`."""
        try:
            return await self._connection.pull()
        except ConnectionClosed as error:
            broke = f": it sent {self._connection.failure}" if self._connection.failure else ""
            raise Unreachable(f"The connection to {self.remote} is closed{broke}.") from error

    def introduced(self) -> None:
        """The other end is no stranger any more."""
        if self._entry is not None:
            self._entry.welcome()

    async def aclose(self) -> None:
        """As `Transport.aclose`: a goodbye that is not answered soon is not waited for."""
        await self._connection.leave()


class _Entry:
    """One stranger's place at the gate."""

    def __init__(self, gate: Gate, address: str) -> None:
        self._gate = gate
        self._address = address
        self._here = False

    def enter(self) -> bool:
        self._here = self._gate.enter(self._address, trio.current_time())
        return self._here

    def welcome(self) -> None:
        if self._here:
            self._here = False
            self._gate.welcome(self._address, trio.current_time())

    def leave(self) -> None:
        if self._here:
            self._here = False
            self._gate.leave(self._address)


class WebsocketNetwork:
    """Real connections."""

    def __init__(self) -> None:
        self._gate = Gate()

    # --- Dialling ---

    async def dial(self, address: str, hello: Hello) -> WebsocketTransport:
        """As `Network.dial`."""
        host, port, secure = split_address(address)
        connection: Connection | None = None
        with trio.move_on_after(HANDSHAKE_S):
            connection = await self._connect(address, host, port, secure, hello)
            try:
                await connection.shake_hands()
                return WebsocketTransport(connection, address, _checked(connection, address, hello))
            except BaseException:
                with trio.CancelScope(shield=True):
                    await connection.abandon()
                raise
        if connection is not None and connection.heard:
            raise _no_meshnode(address, "something else")
        raise Unreachable(
            f"{address} did not answer within {HANDSHAKE_S:g} s.",
            hint="Check that the device is on, and that no firewall is in between.",
        )

    async def _connect(self, address: str, host: str, port: int, secure: bool, hello: Hello) -> Connection:
        try:
            stream = await _open_stream(host, port, secure)
        except (OSError, trio.BrokenResourceError) as error:
            raise Unreachable(
                f"Nothing answers at {address}.", hint="Check that the node there is running."
            ) from error
        return Connection(
            stream,
            ConnectionType.CLIENT,
            host=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            subprotocols=[SUBPROTOCOL],
            headers=[(HEADER, to_header(hello))],
        )

    # --- Listening ---

    async def serve(
        self,
        address: str,
        hello: Hello,
        accept: Accept,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """As `Network.serve`. Strangers are limited in number and rate before anything is read from them."""
        host, port, _ = split_address(address)
        listeners = await _listen(host, port)
        bound = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, partial(self._receive, hello, accept), listeners)
            task_status.started(join_address(host, bound))

    async def _receive(self, hello: Hello, accept: Accept, stream: trio.SocketStream) -> None:
        """One incoming connection, from the gate to its end."""
        try:
            peer, port = stream.socket.getpeername()[:2]
        except OSError:  # gone already
            await trio.aclose_forcefully(stream)
            return
        entry = _Entry(self._gate, peer)
        try:
            if entry.enter():
                await _converse(stream, join_address(peer, port), hello, accept, entry)
        finally:
            entry.leave()
            await trio.aclose_forcefully(stream)


async def _converse(
    stream: trio.SocketStream, remote: str, hello: Hello, accept: Accept, entry: _Entry
) -> None:
    connection = Connection(stream, ConnectionType.SERVER)
    agreed: Hello | None = None
    with trio.move_on_after(HANDSHAKE_S):
        await connection.shake_hands()
        if connection.proposal is not None:
            agreed = await _answer(connection.proposal, remote, hello)
    if agreed is not None:
        await _serve(WebsocketTransport(connection, remote, agreed, entry), accept)


async def _serve(transport: WebsocketTransport, accept: Accept) -> None:
    try:
        await accept(transport)
    except MeshError as error:
        log.debug("connection ended", remote=transport.remote, why=str(error))
    finally:
        with trio.CancelScope(shield=True):
            await transport.aclose()


async def _answer(request: WebSocketRequest, remote: str, hello: Hello) -> Hello | None:
    """Accept a handshake that fits; otherwise say why not, with our own hello so that it is understood."""
    try:
        return await _judge(request, remote, hello)
    except (ConnectionClosed, ProtocolError):
        return None  # it left in the middle


async def _judge(request: WebSocketRequest, remote: str, hello: Hello) -> Hello | None:
    ours = [(HEADER, to_header(hello))]
    theirs = _hello_in(request.headers)
    if theirs is None or SUBPROTOCOL not in request.proposed_subprotocols:
        await request.reject(BAD_REQUEST, body=NOT_HERE)
        return None
    try:
        agreed = agree(hello, theirs, remote)
    except MeshError as error:
        status = CONFLICT if isinstance(error, WrongMesh) else UPGRADE_REQUIRED
        await request.reject(status, extra_headers=ours)
        return None
    await request.accept(subprotocol=SUBPROTOCOL, extra_headers=ours)
    return agreed


def _checked(connection: Connection, address: str, hello: Hello) -> Hello:
    """What the server says of itself, if it is a node that fits; raises as `Network.dial`."""
    failure = connection.failure
    headers = failure.headers if isinstance(failure, ConnectionRejected) else connection.handshake_headers
    theirs = _hello_in(headers)
    if theirs is not None:
        agreed = agree(hello, theirs, address)
        if failure is None and connection.subprotocol == SUBPROTOCOL:
            return agreed
    if not connection.heard:
        raise Unreachable(
            f"{address} closed the connection at once.", hint="It may be busy; try again in a minute."
        )
    answer = f"HTTP {failure.status_code}" if isinstance(failure, ConnectionRejected) else "something else"
    raise _no_meshnode(address, answer)


def _no_meshnode(address: str, answer: str) -> WrongProtocol:
    return WrongProtocol(
        f"What listens at {address} is no meshnode: it answered with {answer}.",
        hint="Check the port; it is the mesh port that is needed, 8421 unless set otherwise, not the API's.",
    )


def _hello_in(headers: Iterable[tuple[bytes, bytes]]) -> Hello | None:
    values = [value for name, value in headers if name.lower() == HEADER]
    return from_header(values[0]) if len(values) == 1 else None


async def _open_stream(host: str, port: int, secure: bool) -> trio.abc.Stream:
    if secure:
        return await trio.open_ssl_over_tcp_stream(host, port, https_compatible=True)
    return await trio.open_tcp_stream(host, port)


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(host, port) from error
        raise ConfigInvalid(
            f"Cannot listen on {host}: {error.strerror or error}.", param="mesh_host"
        ) from error


def split_address(address: str) -> tuple[str, int, bool]:
    """Host, port and whether it is wss; raises ConfigInvalid for anything but ws(s)://host:port."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")  # as resolving it does
    except ValueError:
        host = port = None
    if not host or port is None or parts.scheme not in ("ws", "wss") or parts.path not in ("", "/"):
        raise ConfigInvalid(f"{address!r} is not an address such as ws://192.168.1.20:8421.", param="address")
    return host, port, parts.scheme == "wss"


def join_address(host: str, port: int) -> str:
    """The address of a host, which may be IPv6, and a port."""
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
