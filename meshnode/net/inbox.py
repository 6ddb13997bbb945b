"""What a link does with what arrives: to the stream or request it belongs to, or to a task of its own.

It never waits, so that a slow consumer cannot keep the link from reading.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
import trio

from meshnode.errors import BadRequest, MeshError
from meshnode.net.closing import refusal_of
from meshnode.net.stream import Stream, StreamLost
from meshwire import events, limits
from meshwire.messages import Open
from meshwire.numbers import Message, ResetCode

if TYPE_CHECKING:
    from meshnode.net.link import Link

NOTICES_WAITING = 64  # more than this are dropped: a notice is best effort

log = structlog.get_logger("meshnode.net.link")

OnRequest = Callable[["Link", Message], Awaitable[Message | None]]
OnStream = Callable[["Link", Stream, Open], Awaitable[None]]
OnNotice = Callable[["Link", Message], Awaitable[None]]


class Inbox:
    """The receiving side of one running link."""

    def __init__(
        self,
        link: "Link",
        nursery: trio.Nursery,
        on_request: OnRequest,
        on_stream: OnStream,
        on_notice: OnNotice,
    ) -> None:
        self._link = link
        self._nursery = nursery
        self._on_request = on_request
        self._on_stream = on_stream
        self._on_notice = on_notice
        self._send_notice, self._notices = trio.open_memory_channel[Message](NOTICES_WAITING)
        self._streams_served = 0

    def take(self, event: events.Event) -> None:
        """Pass on one event."""
        if type(event) is events.StreamReceived:  # nearly all of them, and a match takes its time
            self._link.received(event.stream, event.payload, event.end)
            return
        match event:
            case events.StreamOpened(number, opening):
                self._take_stream(number, opening)
            case events.Request(number, message):
                self._nursery.start_soon(self._answer, number, message)
            case events.Notice(message):
                self._take_notice(message)
            case _:
                self._link.take(event)

    def _take_stream(self, number: int, opening: Open) -> None:
        stream = self._link.accept(number)
        if self._streams_served >= limits.INBOUND_STREAMS:
            stream.reset(ResetCode.TOO_MANY)
            return
        self._streams_served += 1
        self._nursery.start_soon(self._serve, stream, opening)

    async def _serve(self, stream: Stream, opening: Open) -> None:
        try:
            await self._on_stream(self._link, stream, opening)
        except StreamLost as error:
            log.debug("stream lost", peer=self._link.name, code=error.code.name)
        except MeshError as error:
            log.info("stream failed", peer=self._link.name, why=str(error))
        finally:
            self._streams_served -= 1
            stream.reset(ResetCode.CANCEL)  # does nothing where both ends are done

    async def _answer(self, number: int, message: Message) -> None:
        try:
            reply = await self._on_request(self._link, message)
            if reply is None:
                raise BadRequest(f"This node does not answer {type(message).__name__}.")
        except MeshError as error:
            if self._link.alive:
                self._link.session.refuse_request(number, refusal_of(error))
        else:
            if self._link.alive:
                self._link.reply(number, reply)
        await self._link.flush()

    def _take_notice(self, message: Message) -> None:
        try:
            self._send_notice.send_nowait(message)
        except trio.WouldBlock:
            return

    async def handle_notices(self) -> None:
        """Handle notices one by one, for as long as the link lives."""
        async with self._send_notice, self._notices:
            async for message in self._notices:
                try:
                    await self._on_notice(self._link, message)
                except MeshError as error:
                    log.debug("notice not taken", peer=self._link.name, why=str(error))
