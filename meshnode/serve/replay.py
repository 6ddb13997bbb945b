"""One answer that is being made for another node, whatever becomes of the link it goes over.

What was sent lately is kept, so that its asker, who has lost the link, can take the rest over another one. It
knows streams, and neither engines nor what the messages say.
"""

from collections import deque

import trio

from meshnode.net.link import Stream, StreamLost
from meshwire.limits import REPLAY_BYTES, REPLAY_S
from meshwire.numbers import ResetCode
from meshwire.streams import cost

Item = tuple[bytes, ...]  # the encoded messages of one piece, one vector, or the end


class Ring:
    """The newest items of an answer, numbered from 0; of those that were sent, `most` bytes are kept."""

    def __init__(self, most: int = REPLAY_BYTES) -> None:
        self.first = 0
        self.sent = 0  # how many went out, over the stream that is attached now
        self._most = most
        self._items: deque[Item] = deque()
        self._bytes = 0

    @property
    def made(self) -> int:
        """How many there have been."""
        return self.first + len(self._items)

    @property
    def full(self) -> bool:
        """Whether no more should be made until some are sent."""
        return self._bytes >= self._most

    def add(self, item: Item) -> None:
        """One more."""
        self._items.append(item)
        self._bytes += _size(item)

    def next_unsent(self) -> Item:
        """The next to be sent."""
        return self._items[self.sent - self.first]

    def note_sent(self) -> None:
        """The next was sent. The oldest that were sent go, where too much is kept."""
        self.sent += 1
        while self._bytes > self._most and self.first < self.sent:
            self._bytes -= _size(self._items.popleft())
            self.first += 1

    def rewind(self, number: int) -> bool:
        """Send again from this item on; False where it is not there (any more)."""
        if not self.first <= number <= self.made:
            return False
        self.sent = number
        return True


def _size(item: Item) -> int:
    return sum(cost(len(message)) for message in item)


class Delivery:
    """The way of one answer to its asker, over one stream after another.

    `scope` is that of the run: it is cancelled when the asker wants no more, when the time until `deadline`
    (trio's) is over, or when no stream has come in place of a lost one within REPLAY_S. Without `keeps`, a lost
    stream is the end at once.
    """

    def __init__(self, stream: Stream, deadline: float, *, keeps: bool) -> None:
        self.scope = trio.CancelScope(deadline=deadline)
        self.keeps = keeps
        self.over = False  # all of it went out
        self._deadline = deadline
        self._ring = Ring(REPLAY_BYTES if keeps else 0)
        self._stream: Stream | None = stream
        self._attending = trio.CancelScope()
        self._welcome = b""
        self._pumping = False
        self._last = False  # no item follows
        self._moved = trio.lowlevel.ParkingLot()

    # --- Streams ---

    async def attend(self, stream: Stream) -> None:
        """Stay with the stream until it is lost, or all went out, or another one takes its place."""
        try:
            with trio.CancelScope() as self._attending:
                if self.over:
                    return
                await self._pump()
                await stream.lost()
        finally:  # cancelled from outside: its link is being torn down
            self._lost(stream, stream.code or ResetCode.LINK_LOST)

    def attach(self, stream: Stream, next_item: int, welcome: bytes) -> bool:
        """Say welcome, and go on over this stream from the item with this number on; False where that is not
        kept.
        """
        if not self.keeps or not self._ring.rewind(next_item):
            return False
        self._let_go(ResetCode.LINK_LOST)
        self._stream, self.over, self._welcome = stream, False, welcome
        self.scope.deadline = self._deadline
        self._moved.unpark_all()
        return True

    def give_up(self) -> None:
        """Nobody wants it any more."""
        self._let_go(ResetCode.CANCEL)
        self.scope.cancel()

    def close(self) -> None:
        """The end of it all, whatever the reason."""
        late = trio.current_time() >= self._deadline
        self._let_go(ResetCode.DEADLINE if late else ResetCode.CANCEL)

    def _let_go(self, code: ResetCode) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.reset(code)  # does nothing where both ends are done
            self._attending.cancel()

    def _lost(self, stream: Stream, code: ResetCode) -> None:
        """The stream broke off: who lost it may come back, who let go of it will not."""
        if stream is not self._stream:
            return
        self._stream = None
        if code is not ResetCode.LINK_LOST or not self.keeps:
            self.scope.cancel()
        else:
            self.scope.deadline = min(self._deadline, trio.current_time() + REPLAY_S)
        self._moved.unpark_all()

    # --- What is sent ---

    @property
    def _waiting(self) -> bool:
        return bool(self._welcome) or self._ring.sent < self._ring.made

    async def tell(self, message: bytes) -> None:
        """Send what need not be told to one who comes back, unless there is something better to send."""
        if self._stream is not None and not self._pumping and not self._waiting:
            await self._send(self._stream, (message,), last=False)

    async def put(self, item: Item, *, last: bool = False) -> None:
        """Send an item, or keep it until there is a stream again; waits while as much is kept as may be."""
        self._last = last
        self._ring.add(item)
        while True:
            await self._pump()
            if not self._waiting or not (self._ring.full or last):
                return
            await self._moved.park()

    async def linger(self) -> None:
        """All went out; keep it a while for one who lost the link with the last of it on its way."""
        while True:
            self.over = True
            self._stream = None  # it ended cleanly, or its asker has not ended it and may read on
            self._attending.cancel()
            with trio.move_on_after(REPLAY_S if self.keeps else 0):
                while self.over:
                    await self._moved.park()
            if self.over:
                return
            await self._until_sent()

    async def _until_sent(self) -> None:
        while self._waiting:
            await self._pump()
            if self._waiting:
                await self._moved.park()

    async def _pump(self) -> None:
        """Send what is waiting, unless somebody is at it."""
        while self._stream is not None and not self._pumping and self._waiting:
            stream, number = self._stream, self._ring.sent
            if self._welcome:
                welcome, self._welcome = self._welcome, b""
                await self._send(stream, (welcome,), last=False)
                continue
            last = self._last and number == self._ring.made - 1
            sent = await self._send(stream, self._ring.next_unsent(), last=last)
            if sent and stream is self._stream and number == self._ring.sent:
                self._ring.note_sent()

    async def _send(self, stream: Stream, item: Item, *, last: bool) -> bool:
        """Whether all of the item went out."""
        self._pumping = True
        try:
            for number, message in enumerate(item, 1):
                await stream.send_encoded(message, end=last and number == len(item))
        except StreamLost as lost:
            self._lost(stream, lost.code)
            return False
        finally:
            self._pumping = False
            self._moved.unpark_all()
        return True
