"""POST /v1/chat/completions: read the request, run it, and write what comes, whole or as a stream.

The response's status is decided as late as possible: nothing is committed before the first sign of life, so
an error that comes first is an HTTP status and not a broken stream.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from meshnode.api.chunks import Shapes
from meshnode.api.completion import Completion, job_of, read_completion
from meshnode.api.doors import Doors
from meshnode.api.errors import body_of, header_text, http_response, mesh_response
from meshnode.api.flow import Item, flowing
from meshnode.api.guard import read_json_body
from meshnode.api.sse import DONE, KEEP_ALIVE, EventStream, event
from meshnode.errors import Interrupted, MeshError
from meshnode.terms import Answer, End, Job, Piece
from meshwire.limits import RESPONSE_MAX

CLOSING = "closing"  # the key of the server's shutdown event in the ASGI state

Items = trio.MemoryReceiveChannel[Item]


class Chat:
    """The endpoint, as an ASGI application."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; when the client leaves, the run is cancelled at once."""
        job_id = self._doors.new_id()
        try:
            request = Request(scope, receive)
            completion = read_completion(await read_json_body(request), request.headers.items())
            job = job_of(completion, job_id)
        except (MeshError, HTTPException) as error:
            refused = mesh_response(error) if isinstance(error, MeshError) else http_response(error)
            refused.headers["x-request-id"] = job_id
            await refused(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, job)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            await self._run(exchange, completion, job)
            nursery.cancel_scope.cancel()

    async def _run(self, exchange: Exchange, completion: Completion, job: Job) -> None:
        created = int(self._doors.wall())
        async with flowing(self._doors, job, exchange.closing) as items:
            answer = await items.receive()
            if not isinstance(answer, Answer):
                await exchange.refuse(answer)
                return
            exchange.served_by(answer)
            shapes = Shapes(job.id, created, answer.model, include_usage=completion.include_usage)
            await (_stream if completion.stream else _whole)(items, exchange, shapes)


class Exchange:
    """The HTTP side of one request: what may still be sent, and with which headers."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, job: Job) -> None:
        self._asgi = (scope, receive, send)
        self._headers = {"x-request-id": job.id}
        self.closing: trio.Event | None = scope.get("state", {}).get(CLOSING)
        self.events = EventStream(send)

    def served_by(self, answer: Answer) -> None:
        """From now on every response says who served it."""
        self._headers.update(_provenance(answer))

    async def start(self, opening: bytes) -> None:
        """Commit to a stream, once."""
        if not self.events.started:
            await self.events.start(self._headers)
            await self.events.write(event(opening))

    async def refuse(self, item: Item) -> None:
        """End with an error: as a status if nothing was sent, else as the stream's last event."""
        error = item if isinstance(item, MeshError) else Interrupted("The answer broke off before it began.")
        if self.events.started:
            await self.events.write(event(body_of(error)))
            await self.events.finish()
        else:
            await mesh_response(error, self._headers)(*self._asgi)

    async def respond(self, body: bytes) -> None:
        """End with a whole answer."""
        await Response(body, 200, self._headers, media_type="application/json")(*self._asgi)


async def _stream(items: Items, exchange: Exchange, shapes: Shapes) -> None:
    events = exchange.events
    while True:
        item = await _next_or_silence(items, events)
        if item is None:
            await events.write(KEEP_ALIVE)
            continue
        if isinstance(item, MeshError):
            await exchange.refuse(item)
            return
        await exchange.start(shapes.opening())
        if isinstance(item, Piece) and item.text:
            await events.write(event(shapes.text(item.text)))
        elif isinstance(item, End):
            await events.write(b"".join(map(event, shapes.closing(item))) + DONE)
            await events.finish()
            return


async def _next_or_silence(items: Items, events: EventStream) -> Item | None:
    """The next item, or None when the client has heard nothing for too long."""
    with trio.move_on_at(events.due):
        return await items.receive()
    return None


async def _whole(items: Items, exchange: Exchange, shapes: Shapes) -> None:
    texts: list[str] = []
    characters = 0
    async for item in items:
        if isinstance(item, MeshError):
            await exchange.refuse(item)
            return
        if isinstance(item, End):
            await exchange.respond(shapes.whole("".join(texts), item))
            return
        if isinstance(item, Piece):
            texts.append(item.text)
            characters += len(item.text)
        if characters > RESPONSE_MAX:
            await exchange.refuse(Interrupted(f"The answer is longer than {RESPONSE_MAX} characters."))
            return


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
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
