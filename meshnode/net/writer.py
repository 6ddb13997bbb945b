"""The writing side of a link: whoever sends on an idle link writes at once, and takes along what others queue.

Waiting for the other end to take a message is shielded, so that a caller that leaves never leaves half of one
behind, and bounded, so that a stalled link dies. It knows transports and queued frames, not what they mean.
"""

from collections.abc import Callable, Iterable

import trio

from meshnode.errors import MeshError, Unreachable
from meshnode.net.base import Prompt, Transport
from meshwire.limits import WRITE_STALL_S
from meshwire.numbers import Message
from meshwire.session import Session

YIELD_BYTES = 16 * 1024
POSTED_MAX = 64 * 1024


class Writer:
    """Writes what a session queues. `lose` is told when that fails."""

    def __init__(self, transport: Transport, session: Session, lose: Callable[[MeshError], None]) -> None:
        self._transport = transport
        self._prompt = transport if isinstance(transport, Prompt) else None
        self._session = session
        self._lose = lose
        self._writing = False
        self._behind = False  # the transport still has something that had to wait
        self._written = trio.lowlevel.ParkingLot()
        self._idle = trio.lowlevel.ParkingLot()

    async def flush(self) -> None:
        """Write what is queued, unless someone is writing: then it goes along with what is written next.

        Then it yields only once YIELD_BYTES are queued, so that a burst of small frames becomes one message.
        """
        if not self._writing:
            await self._write()
            self.wake()  # for what was queued meanwhile
        elif self._session.queued_bytes >= YIELD_BYTES:
            await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """Something was queued by one who must not wait: let `run` write it, unless someone is writing."""
        if not self._writing and self._session.has_output:
            self._idle.unpark_all()

    def push(self) -> None:
        """As `wake`, but written at once where that needs no waiting: it spares `run` a turn."""
        if self._prompt is None or self._writing or self._behind:
            self.wake()
        elif self._session.has_output and not self._send_now(self._prompt, self._session.data_to_send()):
            self._behind = True
            self._idle.unpark_all()

    def post(self, notices: Iterable[Message]) -> None:
        """Queue notices and write them, without waiting; dropped where much waits already."""
        for notice in notices:
            if self._session.queued_bytes < POSTED_MAX:
                self._session.notify(notice)
        self.push()

    async def run(self) -> None:
        """Write what others queue, for as long as the link lives."""
        while True:
            if not (self._session.has_output or self._behind):
                await self._idle.park()
            await self.finish()

    async def finish(self) -> None:
        """Write what is queued, after whoever is writing."""
        while self._writing:
            await self._written.park()
        await self._write()

    async def _write(self) -> None:
        """Write what is queued now, as the only one. While this takes its turn, others queue what goes out next."""
        self._writing = True
        try:
            messages = self._session.data_to_send()
            if self._prompt is None:
                await self._wait(messages)
            elif self._send_now(self._prompt, messages) and not self._behind:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                self._behind = False
                await self._wait([])
        finally:
            self._writing = False
            if self._written:
                self._written.unpark()

    @staticmethod
    def _send_now(prompt: Prompt, messages: list[bytes]) -> bool:
        """Hand all messages over; whether all of them were written."""
        written = True
        for message in messages:
            written = prompt.send_now(message) and written
        return written

    async def _wait(self, messages: list[bytes]) -> None:
        """Write these messages, or what a prompt transport could not write at once."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_STALL_S) as scope:
            try:
                for message in messages:
                    await self._transport.send(message)
                if self._prompt is not None:
                    await self._prompt.send_rest()
            except Unreachable as error:
                self._lose(error)
        if scope.cancelled_caught:
            self._lose(
                Unreachable(f"{self._transport.remote} has not taken anything for {WRITE_STALL_S:g} s.")
            )
