"""Server-sent events as bytes, and the response that sends them. It knows nothing of what they say."""

import math
from collections.abc import Mapping
from typing import Protocol

import trio
from starlette.types import Send

KEEP_ALIVE_S = 5.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(payload: bytes, name: str = "") -> bytes:
    """One event around JSON without line breaks, which msgspec never writes; perhaps with a name."""
    named = f"event: {name}\n".encode() if name else b""
    return named + b"data: " + payload + b"\n\n"


class Transport(Protocol):
    """The connection below an HTTP/1.1 response in chunks."""

    async def write(self, data: bytes) -> None:
        """Send all of it, or give up: a client that is gone is noticed elsewhere."""
        ...


class EventStream:
    """A 200 response of events. Nothing is committed before `start`.

    With a `transport` all but the first and the last bytes of the body pass by the server's protocol code, as
    the chunks that it would make of them: for an answer of many small events that is half of the work.
    """

    def __init__(self, send: Send, transport: Transport | None = None) -> None:
        self._send = send
        self._transport = transport
        self.started = False
        self._in_body = False
        self._due = math.inf  # when (in trio's time) the client will have heard nothing for too long
        self._write = _Write()

    async def start(self, headers: Mapping[str, str]) -> None:
        """Commit to 200 with these headers."""
        self.started = True
        fixed = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in {**fixed, **headers}.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": pairs})

    async def write(self, data: bytes) -> None:
        """Send bytes made by `event`, KEEP_ALIVE or DONE; waits while the client's window is full."""
        await self.between_writes()
        with self._write:
            if self._transport and self._in_body:
                await self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._in_body = True
        self._due = trio.current_time() + KEEP_ALIVE_S

    async def finish(self, data: bytes = b"") -> None:
        """End the response, with its last bytes."""
        self._due = math.inf
        await self.between_writes()
        with self._write:
            await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def keep_alive(self) -> None:
        """Say something whenever the client has heard nothing for too long; until cancelled."""
        while True:
            await trio.sleep_until(min(self._due, trio.current_time() + KEEP_ALIVE_S))
            await self.between_writes()  # one to a client that does not read may last long after it was due
            if trio.current_time() >= self._due:
                await self.write(KEEP_ALIVE)

    async def between_writes(self) -> None:
        """Wait until no write is under way; none begins before the caller next waits."""
        while self._write.under_way:
            await self._write.ended.wait()


class _Write:
    """Whether a write is under way: the answer and its signs of life are written by two tasks."""

    def __init__(self) -> None:
        self.under_way = False
        self.ended = trio.Event()

    def __enter__(self) -> None:
        self.under_way, self.ended = True, trio.Event()

    def __exit__(self, *_raised: object) -> None:
        self.under_way = False
        self.ended.set()
