"""What one end of a link waits for: replies to its requests, and the answers to pings. It sends nothing itself."""

import trio

from meshnode.errors import Unreachable
from meshwire.numbers import Message


class Pending:
    """A request that waits for its reply."""

    __slots__ = ("event", "reply")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.reply: Message | None = None

    def came(self, reply: Message) -> None:
        """This is the reply."""
        self.reply = reply
        self.event.set()


class _Waiting:
    """A ping on its way, and how long its answer took."""

    __slots__ = ("event", "rtt_ms", "sent_at")

    def __init__(self, sent_at: float) -> None:
        self.event = trio.Event()
        self.sent_at = sent_at
        self.rtt_ms: float | None = None


class Pongs:
    """The pings of one link whose answers somebody waits for; others only keep the link alive."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}

    async def of(self, token: int) -> float:
        """The round trip of a ping that has just left, in milliseconds; raises Unreachable once the link is lost."""
        waiting = self._waiting[token] = _Waiting(trio.current_time())
        try:
            await waiting.event.wait()
        finally:
            del self._waiting[token]
        if waiting.rtt_ms is None:
            raise Unreachable("The link was lost before the answer came.")
        return waiting.rtt_ms

    def came(self, token: int) -> None:
        """A ping was answered; if nobody waits for that, it is ignored."""
        waiting = self._waiting.get(token)
        if waiting is not None:
            waiting.rtt_ms = 1000 * (trio.current_time() - waiting.sent_at)
            waiting.event.set()

    def end(self) -> None:
        """The link is lost: no answer comes any more."""
        for waiting in self._waiting.values():
            waiting.event.set()
