"""Server-sent events as bytes, and the response that sends them. It knows nothing of what they say."""

import math
from collections.abc import Mapping

import trio
from starlette.types import Send

KEEP_ALIVE_S = 5.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(payload: bytes) -> bytes:
    """One event around JSON without line breaks, which msgspec never writes."""
    return b"data: " + payload + b"\n\n"


class EventStream:
    """A 200 response of events. Nothing is committed before `start`.

    `due` is when (in trio's time) the client will have heard nothing for too long; never, before the start.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.due = math.inf

    async def start(self, headers: Mapping[str, str]) -> None:
        """Commit to 200 with these headers."""
        self.started = True
        fixed = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in {**fixed, **headers}.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": pairs})

    async def write(self, data: bytes) -> None:
        """Send bytes made by `event`, KEEP_ALIVE or DONE; waits while the client's window is full."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.due = trio.current_time() + KEEP_ALIVE_S

    async def finish(self) -> None:
        """End the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
