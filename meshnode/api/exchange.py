"""The HTTP side of one request: what may still be sent, with which headers, and whether anybody is there."""

from __future__ import annotations

from collections.abc import Mapping

import trio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from meshnode.api.errors import body_of, header_text, http_response, mesh_response
from meshnode.api.flow import Item
from meshnode.api.sse import EventStream, event
from meshnode.errors import Interrupted, MeshError
from meshnode.terms import Answer

CLOSING = "closing"  # the key of the server's shutdown event in the ASGI state


class Exchange:
    """One request's way back. Nothing is committed before `start`, `refuse` or `respond`."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self._asgi = (scope, receive, send)
        self._headers = {"x-request-id": request_id}
        self.closing: trio.Event | None = scope.get("state", {}).get(CLOSING)
        self.events = EventStream(send)

    def served_by(self, answer: Answer) -> None:
        """From now on every response says who served it."""
        self._headers.update(_provenance(answer))

    async def start(self) -> None:
        """Commit to a stream, once."""
        if not self.events.started:
            await self.events.start(self._headers)

    async def refuse(self, item: Item | HTTPException) -> None:
        """End with an error: as a status if nothing was sent, else as the stream's last event."""
        if isinstance(item, HTTPException):
            refused = http_response(item)
            refused.headers.update(self._headers)
            await refused(*self._asgi)
            return
        error = item if isinstance(item, MeshError) else Interrupted("The answer broke off before it began.")
        if self.events.started:
            await self.events.write(event(body_of(error)))
            await self.events.finish()
        else:
            await mesh_response(error, self._headers)(*self._asgi)

    async def respond(self, body: bytes) -> None:
        """End with a whole answer."""
        await Response(body, 200, self._headers, media_type="application/json")(*self._asgi)


async def cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel the scope as soon as the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _provenance(answer: Answer) -> Mapping[str, str]:
    facts = {
        "served-by": answer.served_by,
        "path": ",".join(answer.path),
        "model": answer.model,
        "tier": str(answer.tier),
        "rung": answer.rung,
        "trust": answer.trust,
        "attempts": str(answer.attempts),
    }
    return {f"x-mesh-{name}": header_text(value) for name, value in facts.items()}
