"""trio-websocket's connection, read by whoever wants the next message instead of by a task of its own.

The one place that uses trio-websocket's private parts. That saves a turn of the scheduler a message, keeps
what a hostile peer breaks in the hands of whoever reads, and makes room to refuse what has no bound:
fragmented messages, which the library would collect in a list, and the bodies of rejections.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import trio
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    WebSocketRequest,
)
from wsproto import ConnectionType, WSConnection, events
from wsproto.connection import ConnectionState
from wsproto.utilities import ProtocolError

from meshnode.net.framing import MASK_BYTES, Cutter, wrap
from meshwire.limits import TRANSPORT_MESSAGE_MAX

RECEIVE_BYTES = 64 * 1024
CLOSE_S = 0.5  # how long a goodbye may take


class Connection(WebSocketConnection):
    """One websocket. `pull` and `shake_hands` are for one task at a time; sending is for any."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        role: ConnectionType,
        *,
        host: str | None = None,
        subprotocols: Iterable[str] = (),
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(
            stream,
            WSConnection(role),
            host=host,
            path="/",
            client_subprotocols=subprotocols,
            client_extra_headers=list(headers),
        )
        self.proposal: WebSocketRequest | None = None
        self.failure: Exception | None = None  # what the other end did to end it
        self.heard = False  # whether anything at all has come
        self._arrived: deque[bytes] = deque()
        self._cutter = Cutter(expects_mask=role is ConnectionType.SERVER)
        self._partial = bytearray()
        self._rest = bytearray()  # framed, but not written yet
        self._pulling = False
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._handlers: dict[type[events.Event], Callable[[Any], Awaitable[None]]] = {
            events.AcceptConnection: self._handle_accept_connection_event,
            events.BytesMessage: self._take,
            events.CloseConnection: self._handle_close_connection_event,
            events.Ping: self._handle_ping_event,
            events.Pong: self._handle_pong_event,
            events.RejectConnection: self._refused,
            events.Request: self._asked,
            events.TextMessage: self._take_text,
        }

    async def shake_hands(self) -> None:
        """As client: send the request, and read until it is answered. As server: read until there is one.

        Either way it returns, too, when the connection ends; `failure` then says why if it was their doing.
        """
        if self._initial_request is not None:
            try:
                await self._send(self._initial_request)
            except ConnectionClosed:
                return
        while self._reader_running and not self._open_handshake.is_set() and self.proposal is None:
            await self._pull_some()

    async def pull(self) -> bytes:
        """The next message; raises ConnectionClosed."""
        while not self._arrived:
            if not self._reader_running or self._close_handshake.is_set():
                raise ConnectionClosed(self._close_reason)
            await self._pull_some()
        return self._arrived.popleft()

    async def abandon(self) -> None:
        """Close without a goodbye."""
        await self._close_stream()
        await self._abort_web_socket()

    async def leave(self) -> None:
        """Say goodbye, give the other end CLOSE_S to answer, and close."""
        with trio.move_on_after(CLOSE_S):
            with suppress(ConnectionClosed, ProtocolError):  # it is over already
                await self._say_goodbye()
        await self.abandon()

    async def _say_goodbye(self) -> None:
        """Close, reading what is still on its way: closing over unread bytes would reset the connection."""
        if self._wsproto.state is ConnectionState.OPEN:
            self._close_reason = CloseReason(1000, None)
            await self._send(events.CloseConnection(code=1000))
        if self._pulling:
            await self._close_handshake.wait()
        while not self._close_handshake.is_set():
            await self._pull_some()

    async def _pull_some(self) -> None:
        """Read once, and act on it. What the other end breaks ends the connection, and nothing else."""
        self._pulling = True
        try:
            received = await self._read_some()
            if not received:
                await self._abort_web_socket()
                return
            self.heard = True
            if not self._open_handshake.is_set():
                await self._act_on(received)
                return
            for is_message, frame in self._cutter.cut(received):
                if is_message:
                    self._arrived.append(frame)
                else:
                    await self._act_on(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._abort_web_socket()
        except (ConnectionClosed, HandshakeError, ProtocolError) as error:
            self.failure = error
            await self._answer_failure(error)
            await self.abandon()
        finally:
            self._pulling = False

    async def _act_on(self, received: bytes) -> None:
        """What the library makes of bytes: of the handshake, or of one frame that is no whole binary message."""
        self._wsproto.receive_data(received)
        for event in self._wsproto.events():
            await self._handlers[type(event)](event)

    async def _read_some(self) -> bytes:
        """What has come, b"" at the end. From a plain socket, waiting for it is the only turn that this takes."""
        if self._socket is None:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return os.read(self._socket.fileno(), RECEIVE_BYTES)
            except BlockingIOError:
                continue  # woken for nothing
            except OSError as error:
                raise trio.BrokenResourceError from error

    async def _answer_failure(self, error: Exception) -> None:
        """Tell the other end, where the protocol has words for it: a browser sees a proper HTTP error."""
        hint = getattr(error, "event_hint", None)
        if hint is not None and self.is_server:
            with suppress(ConnectionClosed, ProtocolError):
                await self._send(hint)

    async def _take(self, event: events.BytesMessage) -> None:
        """A message, or the next piece of a long one. A frame that is done must end its message."""
        if event.frame_finished and not event.message_finished:
            raise ProtocolError("a message in fragments")
        self._partial += event.data
        if len(self._partial) > TRANSPORT_MESSAGE_MAX:
            raise ProtocolError("a message that is too long")
        if event.message_finished:
            self._arrived.append(bytes(self._partial))
            self._partial.clear()

    async def _take_text(self, _event: events.TextMessage) -> None:
        raise ProtocolError("text, which no meshnode sends")

    async def _asked(self, event: events.Request) -> None:
        self.proposal = WebSocketRequest(self, event)

    async def _refused(self, event: events.RejectConnection) -> None:
        """Do not wait for the body, which has no bound."""
        raise ConnectionRejected(event.status_code, tuple(event.headers), body=None)

    async def _send(self, event: events.Event) -> None:
        """As inherited, but behind what `send_now` has left."""
        self._rest += self._wsproto.send(event)
        await self.send_rest()

    def send_now(self, message: bytes) -> bool:
        """Write a message as far as the socket takes it; whether that was all. Raises ConnectionClosed."""
        if self._close_reason is not None:
            raise ConnectionClosed(self._close_reason)
        if self._wsproto.state is not ConnectionState.OPEN:
            raise ConnectionClosed(self._close_reason)
        self._rest += wrap(message, b"" if self.is_server else os.urandom(MASK_BYTES))  # noqa: TID251 - real sockets only
        if self._socket is None or self._stream_lock.locked():
            return False
        try:
            written = os.write(self._socket.fileno(), self._rest)
        except OSError:  # full, which only means waiting, or broken, which `send_rest` will find out
            return False
        del self._rest[:written]
        return not self._rest

    async def send_rest(self) -> None:
        """Write what is left; raises ConnectionClosed. Whoever cancels this has to close the connection."""
        async with self._stream_lock:
            await self._write_rest()

    async def _write_rest(self) -> None:
        try:
            while self._rest:
                rest = bytes(self._rest)
                self._rest.clear()
                await self._stream.send_all(rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._abort_web_socket()
            raise ConnectionClosed(self._close_reason) from None
