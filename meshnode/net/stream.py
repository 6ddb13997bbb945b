"""One stream of a link, as its users see it: payloads in order, under credit. It knows no transports."""

from collections import deque
from typing import Protocol

import trio

from meshwire.codec import DATA_PAYLOAD_MAX, JOINED_MAX, Joiner, decode_inner, encode_inner, split
from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.numbers import Message, ResetCode


class StreamLost(Exception):
    """A stream broke off: it was reset, or its link was lost (`code` is LINK_LOST)."""

    def __init__(self, code: ResetCode) -> None:
        super().__init__(f"the stream broke off: {code.name.lower()}")
        self.code = code


class StreamSilent(Exception):
    """The link of a stream on which something is due has fallen silent; the stream is still open."""


class Carrier(Protocol):
    """What a stream needs of its link."""

    def credit(self, stream: int) -> int:
        """The longest payload that may be sent on the stream now."""
        ...

    async def send_data(self, stream: int, payload: bytes, end: bool) -> None:
        """Send a payload that is within the credit."""
        ...

    def consumed(self, stream: int, payload_bytes: int) -> None:
        """A received payload was used up."""
        ...

    def reset(self, stream: int, code: ResetCode) -> None:
        """The stream is given up."""
        ...


class Stream:
    """One stream of a link. One task at a time sends, one receives. Payload boundaries are kept."""

    __slots__ = (
        "_broken",
        "_code",
        "_in_use",
        "_joiner",
        "_link",
        "_queue",
        "_readable",
        "_received_end",
        "_sent_end",
        "_silent",
        "_writable",
        "number",
    )

    def __init__(self, link: Carrier, number: int) -> None:
        self.number = number
        self._link = link
        self._queue: deque[bytes] = deque()
        self._in_use = 0  # bytes of the payload that was handed out last
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        self._joiner = Joiner(JOINED_MAX)
        self._sent_end = False
        self._received_end = False
        self._silent = False
        self._code: ResetCode | None = None
        self._broken = trio.Event()

    async def send(self, payload: bytes, end: bool = False) -> None:
        """Send one payload of at most DATA_PAYLOAD_MAX bytes, waiting for credit; `end` closes our half.

        Raises StreamLost.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._sent_end or len(payload) > DATA_PAYLOAD_MAX:
            raise LocalWireError("a payload after the end, or one too long for a frame")
        while self._code is None and payload and self._link.credit(self.number) < len(payload):
            await self._writable.park()
        if self._code is not None:
            raise StreamLost(self._code)
        self._sent_end = end
        await self._link.send_data(self.number, payload, end)

    async def receive(self) -> bytes | None:
        """The next payload, None at the clean end; raises StreamLost once all that came before was received,
        and StreamSilent where the link watches it.

        It does not yield while payloads wait; credit bounds how long that can last. The credit of a payload
        goes back when the next one is asked for: by then it is used up, and its answer is on its way.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._give_back()
        while not self._queue:
            if self._received_end:
                return None
            if self._code is not None:
                raise StreamLost(self._code)
            if self._silent:
                self._silent = False
                raise StreamSilent
            await self._readable.park()
        payload = self._queue.popleft()
        self._in_use = len(payload)
        if self._received_end:  # nobody need ask again
            self._give_back()
        return payload

    def _give_back(self) -> None:
        """The payload that was handed out last is used up."""
        if self._in_use:
            used, self._in_use = self._in_use, 0
            self._link.consumed(self.number, used)

    async def send_message(self, message: Message, end: bool = False) -> None:
        """Send an inner message, in as many payloads as it takes; raises StreamLost."""
        await self.send_encoded(encode_inner(message), end)

    async def send_encoded(self, message: bytes, end: bool = False) -> None:
        """Send the bytes of an inner message, in as many payloads as it takes; raises StreamLost."""
        *parts, last = split(message)
        for part in parts:
            await self.send(part)
        await self.send(last, end)

    async def receive_message(self) -> Message | None:
        """The next inner message, None at the clean end; raises StreamLost, StreamSilent.

        A malformed one, or an end in the middle of one, resets the stream.
        """
        try:
            while (payload := await self.receive()) is not None:
                if (whole := self._joiner.add(payload)) is not None:
                    return decode_inner(whole)
            if self._joiner.waiting:
                raise StreamLost(ResetCode.INTERNAL)
        except RemoteWireError as error:
            self.reset(ResetCode.INTERNAL)
            raise StreamLost(ResetCode.INTERNAL) from error
        return None

    @property
    def code(self) -> ResetCode | None:
        """Why it broke off; None while it has not."""
        return self._code

    async def lost(self) -> None:
        """Wait until the stream breaks off; for ever if it never does."""
        await self._broken.wait()

    def reset(self, code: ResetCode) -> None:
        """End the stream at once, both ways; does nothing once both ends are done or it is broken."""
        if self._code is None:
            self._link.reset(self.number, code)
            self.break_off(code)

    async def aclose(self) -> None:
        """End our half if it is open, and stop listening to theirs."""
        if self._code is None and not self._sent_end:
            await self.send(b"", end=True)
        self.reset(ResetCode.CANCEL)

    # --- What the link tells it, and asks ---

    @property
    def finished(self) -> bool:
        """Whether both ends have ended it cleanly and everything was received."""
        return self._sent_end and self._received_end and not self._queue

    def arrived(self, payload: bytes, end: bool) -> None:
        """A payload came."""
        if payload:
            self._queue.append(payload)
        self._received_end = end
        self._silent = False
        if self._readable:  # in a burst nobody is parked, and asking the lot takes its time
            self._readable.unpark_all()

    def fell_silent(self) -> None:
        """Nothing comes over the link any more."""
        self._silent = True
        self._readable.unpark_all()

    def writable(self) -> None:
        """There may be credit."""
        self._writable.unpark_all()

    def break_off(self, code: ResetCode) -> None:
        """It was reset, or the link is gone."""
        if self._code is None:
            self._code = code
            self._broken.set()
            self._readable.unpark_all()
            self._writable.unpark_all()
