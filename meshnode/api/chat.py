"""POST /v1/chat/completions: read the request, run it, and write what comes, whole or as a stream.

The response's status is decided as late as possible: nothing is committed before the first sign of life, so
an error that comes first is an HTTP status and not a broken stream.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshnode.api.chunks import Shapes
from meshnode.api.completion import Completion, jobs_of, read_completion
from meshnode.api.endpoint import Endpoint
from meshnode.api.exchange import Exchange
from meshnode.api.flow import Flowing, Items
from meshnode.api.gathered import Gathered
from meshnode.api.sse import DONE, event
from meshnode.errors import Interrupted, MeshError
from meshnode.terms import Answer, End, Job, Piece
from meshwire.limits import RESPONSE_MAX


class Chat(Endpoint[Completion]):
    """The endpoint, as an ASGI application."""

    def read(self, body: bytes, headers: Iterable[tuple[str, str]]) -> Completion:
        """Decode and check a request, see read_completion."""
        return read_completion(body, headers)

    def jobs(self, asked: Completion, job_id: str, tenant_tag: bytes) -> tuple[Job, ...]:
        """One job for each choice, see jobs_of."""
        return jobs_of(asked, job_id, tenant_tag)

    async def respond(
        self, exchange: Exchange, asked: Completion, jobs: tuple[Job, ...], items: Items
    ) -> None:
        """Write the choices, side by side."""
        created = int(self._doors.wall())
        answer = (await anext(items)).item
        if not isinstance(answer, Answer):
            await exchange.refuse(answer)
            return
        self._announce(exchange, asked, jobs[0], answer)
        shapes = Shapes(jobs[0].id, created, answer.model, include_usage=asked.include_usage)
        if asked.stream:
            await _Stream(exchange, shapes, len(jobs)).write(items)
        else:
            await _whole(items, exchange, shapes, len(jobs))


class _Stream:
    """An answer as it is streamed; its choices come side by side."""

    def __init__(self, exchange: Exchange, shapes: Shapes, choices: int) -> None:
        self._exchange = exchange
        self._shapes = shapes
        self._opened = [False] * choices
        self._calls = [0] * choices
        self._ends: list[End | None] = [None] * choices

    async def write(self, items: Items) -> None:
        """Write all of it, to its end or its one error."""
        async for came in items:
            if isinstance(came.item, MeshError):
                await self._exchange.refuse(came.item)
                return
            if not isinstance(came.item, Answer):  # the first one has gone into the headers
                await self._open(came.choice)
                await self._take(came)
            if all(self._ends):
                return

    async def _open(self, choice: int) -> None:
        await self._exchange.start()
        if not self._opened[choice]:
            self._opened[choice] = True
            await self._exchange.events.write(event(self._shapes.opening(choice)))

    async def _take(self, came: Flowing) -> None:
        choice, item = came
        if isinstance(item, Piece):
            chunk = self._shapes.piece(choice, item, self._calls[choice])
            self._calls[choice] += len(item.calls)
            if chunk:
                await self._exchange.events.write(event(chunk))
        elif isinstance(item, End):
            self._ends[choice] = item
            await self._close(choice, item)

    async def _close(self, choice: int, end: End) -> None:
        """The end of a choice, and with the last one that of the stream."""
        closing = event(self._shapes.closing(choice, end))
        ends = [end for end in self._ends if end]
        if len(ends) < len(self._ends):
            await self._exchange.events.write(closing)
        else:
            counted = b"".join(map(event, self._shapes.counted(ends)))
            await self._exchange.events.finish(closing + counted + DONE)


async def _whole(items: Items, exchange: Exchange, shapes: Shapes, choices: int) -> None:
    gathered = [Gathered() for _ in range(choices)]
    characters = 0
    async for choice, item in items:
        if isinstance(item, MeshError):
            await exchange.refuse(item)
            return
        if isinstance(item, Piece):
            characters += gathered[choice].add(item)
        if isinstance(item, End):
            gathered[choice].end = item
        if characters > RESPONSE_MAX:
            await exchange.refuse(Interrupted(f"The answer is longer than {RESPONSE_MAX} characters."))
            return
        if all(each.end for each in gathered):
            if choices == 1 and gathered[0].end:  # several may have been served by different ones
                exchange.counted(gathered[0].end.usage)
            await exchange.respond(shapes.whole(gathered))
            return
