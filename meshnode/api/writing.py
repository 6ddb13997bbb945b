"""The choices of an answer, written whole or as a stream, in the shapes of whichever endpoint they are for.

The response's status is decided as late as possible: nothing is committed before the first sign of life, so
an error that comes first is an HTTP status and not a broken stream.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, TypeVar

from meshnode.api.choices import ChoicesBody
from meshnode.api.endpoint import Endpoint
from meshnode.api.exchange import Exchange
from meshnode.api.flow import Flowing, Items
from meshnode.api.gathered import Gathered
from meshnode.api.sse import DONE, event
from meshnode.errors import Interrupted, MeshError
from meshnode.terms import Answer, End, Job, Piece
from meshwire.limits import RESPONSE_MAX

C = TypeVar("C", bound=ChoicesBody)


class Shapes(Protocol):
    """One answer's JSON. Each of its choices opens, has pieces and closes, in that order."""

    def opening(self, choice: int) -> bytes | None:
        """A choice's first chunk, if it has one before its first piece."""
        ...

    def piece(self, choice: int, piece: Piece) -> bytes | None:
        """A chunk with what a piece adds to a choice; None if it adds nothing."""
        ...

    def closing(self, choice: int, end: End) -> bytes:
        """A choice's one terminal chunk."""
        ...

    def counted(self, ends: Sequence[End]) -> list[bytes]:
        """The count of tokens over all choices, if it was asked for."""
        ...

    def whole(self, choices: Sequence[Gathered]) -> bytes:
        """The answer in one object."""
        ...


class ChoicesEndpoint(Endpoint[C]):
    """An endpoint whose jobs are the choices of one answer."""

    @abstractmethod
    def shapes(self, asked: C, job_id: str, created: int, model: str) -> Shapes:
        """The shapes of an answer that began at this time (unix, in s), by this model."""

    async def respond(self, exchange: Exchange, asked: C, jobs: tuple[Job, ...], items: Items) -> None:
        """Write the choices, side by side."""
        created = int(self._doors.wall())
        answer = await self._answer(exchange, asked, jobs[0], items)
        if answer is None:
            return
        shapes = self.shapes(asked, jobs[0].id, created, answer.model)
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
            if chunk := self._shapes.opening(choice):
                await self._exchange.events.write(event(chunk))

    async def _take(self, came: Flowing) -> None:
        choice, item = came
        if isinstance(item, Piece):
            if chunk := self._shapes.piece(choice, item):
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
            exchange.counted(*(each.end.usage for each in gathered if each.end))
            await exchange.respond(shapes.whole(gathered))
            return
