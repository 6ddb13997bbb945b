"""Server-sent events as bytes, and the response that sends them. It knows nothing of what they say."""

import math
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

import trio
from starlette.types import Message, Send

KEEP_ALIVE_S = 5.0
UNSENT_BYTES_MAX = 16 * 1024  # that wait for their turn
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

    def in_one(self) -> AbstractAsyncContextManager[None]:
        """Let what the server sends meanwhile leave in one write."""
        ...


class EventStream:
    """A 200 response of events. Nothing is committed before `start`.

    What is written leaves when `deliver` has its turn, which is when whoever writes waits for something: so events
    that are there at once go in one write, and none is held back. With a `transport` all but the first and the last
    bytes of the body pass by the server's protocol code, as the chunks that it would make of them: for an answer of
    many small events that is half of the work.
    """

    def __init__(self, send: Send, transport: Transport | None = None) -> None:
        self._send = send
        self._transport = transport
        self.started = False
        self._start: Message | None = None
        self._nursery: trio.Nursery | None = None
        self._in_body = False
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._bell = trio.lowlevel.ParkingLot()
        self._due = math.inf  # when (in trio's time) the client will have heard nothing for too long
        self._write = _Write()

    def lives_in(self, nursery: trio.Nursery) -> None:
        """Once it has started, its writes are delivered and its silences filled by tasks there."""
        self._nursery = nursery

    async def start(self, headers: Mapping[str, str]) -> None:
        """Commit to 200 with these headers; they leave with the first bytes of the body."""
        self.started = True
        fixed = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in {**fixed, **headers}.items()]
        if self._nursery is not None:
            self._nursery.start_soon(self.keep_alive)
            self._nursery.start_soon(self.deliver)
        self._start = {"type": "http.response.start", "status": 200, "headers": pairs}

    async def write(self, data: bytes) -> None:
        """Have bytes sent that were made by `event`, or KEEP_ALIVE; waits while the client's window is full."""
        await self.between_writes()
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes >= UNSENT_BYTES_MAX:
            await self._flush()
        else:
            self._bell.unpark_all()

    async def deliver(self) -> None:
        """Send what is written, until cancelled."""
        while True:
            if not self._unsent:
                await self._bell.park()
            await self._flush()

    async def _flush(self) -> None:
        """Send what was written until now."""
        await self.between_writes()
        if not self._unsent:
            return
        data = self._taken()
        with self._write:
            if self._transport is None:
                await self._send_body(data, more=True)
            elif self._in_body:
                await self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                async with self._transport.in_one():
                    await self._send_body(data, more=True)
        self._in_body = True
        self._due = trio.current_time() + KEEP_ALIVE_S

    async def finish(self, data: bytes = b"") -> None:
        """End the response, with its last bytes."""
        self._due = math.inf
        await self.between_writes()
        data = self._taken() + data
        with self._write:
            async with self._transport.in_one() if self._transport else nullcontext():
                await self._send_body(data, more=False)

    def _taken(self) -> bytes:
        data, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
        return data

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        if self._start is not None:
            start, self._start = self._start, None
            await self._send(start)
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def keep_alive(self) -> None:
        """Say something whenever the client has heard nothing for too long; until cancelled."""
        while True:
            await trio.sleep_until(min(self._due, trio.current_time() + KEEP_ALIVE_S))
            await self.between_writes()  # one to a client that does not read may last long after it was due
            if trio.current_time() >= self._due:
                await self.write(KEEP_ALIVE)
                await self._flush()

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
