"""The endpoint: runs the job of a response and writes what comes, whole or as a stream.

As with a chat, nothing is committed before the first sign of life, so that an error that comes first is an HTTP
status.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from meshnode.api.doors import Doors
from meshnode.api.endpoint import Endpoint
from meshnode.api.exchange import Exchange
from meshnode.api.flow import Item, Items
from meshnode.api.responses.body import ResponseBody, read_response_body, response_job
from meshnode.api.responses.shapes import Event
from meshnode.api.responses.written import Written
from meshnode.api.sse import DONE, event
from meshnode.errors import Interrupted, MeshError
from meshnode.terms import End, Job, Piece
from meshwire.limits import RESPONSE_MAX


class Responses(Endpoint[ResponseBody]):
    """The endpoint, as an ASGI application."""

    fields: ClassVar = {"messages": "input", "response_format": "text.format"}

    def read(self, body: bytes, headers: Iterable[tuple[str, str]]) -> ResponseBody:
        """Decode and check a request, see read_response_body."""
        return read_response_body(body, headers)

    def jobs(self, asked: ResponseBody, job_id: str, tenant_tag: bytes) -> tuple[Job, ...]:
        """The one job, see response_job."""
        return (response_job(asked, job_id, tenant_tag),)

    async def respond(
        self, exchange: Exchange, asked: ResponseBody, jobs: tuple[Job, ...], items: Items
    ) -> None:
        """Write the response, to its end or its one error."""
        created = int(self._doors.wall())
        answer = await self._answer(exchange, asked, jobs[0], items)
        if answer is None:
            return
        written = Written(asked, jobs[0], created, answer.model)
        write = _stream if asked.stream else _whole
        await write(items, exchange, written, self._doors)


async def _whole(items: Items, exchange: Exchange, written: Written, doors: Doors) -> None:
    """The response when it is complete."""
    async for _, item in items:
        if error := _error_of(item, written):
            await exchange.refuse(error)
            return
        if isinstance(item, Piece):
            written.take(item)
        elif isinstance(item, End):
            written.end(item, int(doors.wall()))
            exchange.counted(item.usage)
            await exchange.respond(msgspec.json.encode(written.response))
            return


async def _stream(items: Items, exchange: Exchange, written: Written, doors: Doors) -> None:
    """The response while it is written, each event with its name."""
    exchange.last_words = lambda error: _frames(written.fail(error)) + DONE
    async for _, item in items:
        if error := _error_of(item, written):
            await exchange.refuse(error)
            return
        if not exchange.events.started:
            await exchange.start()
            await exchange.events.write(_frames(written.begin()))
        if isinstance(item, Piece):
            if events := written.take(item):
                await exchange.events.write(_frames(events))
        elif isinstance(item, End):
            await exchange.events.finish(_frames(written.end(item, int(doors.wall()))) + DONE)
            return


def _error_of(item: Item, written: Written) -> MeshError | None:
    """What ends the answer, if this item does, or if there is too much of it."""
    if isinstance(item, MeshError):
        return item
    if written.characters > RESPONSE_MAX:
        return Interrupted(f"The answer is longer than {RESPONSE_MAX} characters.")
    return None


def _frames(events: Iterable[Event]) -> bytes:
    return b"".join(event(msgspec.json.encode(each), each.type) for each in events)
