"""A link: one authenticated session over one transport, with requests and streams. It decides nothing.

The reader only queues: it never waits for a consumer, and never writes itself.
"""

from collections.abc import Callable

import trio

from meshnode.errors import Busy, MeshError, Unreachable
from meshnode.net.base import Transport
from meshnode.net.closing import error_from, error_of, turned_away
from meshnode.net.inbox import Inbox, OnNotice, OnRequest, OnStream
from meshnode.net.pending import Pending, Pongs
from meshnode.net.pulse import Pulse
from meshnode.net.stream import Stream, StreamLost, StreamSilent
from meshnode.net.writer import Writer
from meshwire import events, limits
from meshwire.errors import CloseCode, RemoteWireError
from meshwire.ids import NodeId, to_text
from meshwire.messages import Open, Refusal
from meshwire.numbers import ERRAND, Message, ResetCode
from meshwire.session import Session
from meshwire.states import SessionState

__all__ = ["Link", "Stream", "StreamLost", "StreamSilent"]


class Link:
    """One link, once both ends have admitted each other. It lives while `run` runs.

    `node` and `key` name the other end, `path_links` is how many links the way there has, `error` is why the
    link was lost; `name` is for people. A `newcomer` became a member over this link: `on_open` is called then. An
    `errand` makes no neighbours: this end asks something, the last time at `asked_at`, and leaves.
    """

    def __init__(self, transport: Transport, session: Session, path_links: int = 1) -> None:
        self.session = session
        self.key = session.peer_key
        self.node: NodeId = session.peer_id
        self.name = to_text(self.node)
        self.path_links = path_links
        self.remote = transport.remote
        self.error: MeshError | None = None
        self._transport = transport
        self._streams: dict[int, Stream] = {}
        self._replies: dict[int, Pending] = {}
        self._pongs = Pongs()
        self._asking = trio.CapacityLimiter(limits.PENDING_REQUESTS)
        self._writer = Writer(transport, session, self._lose)
        self._closed = trio.Event()
        self.errand = ERRAND in session.features
        self._pulse = Pulse(trio.current_time(), greets=not self.errand)
        self._watched: dict[Stream, None] = {}  # whose users want to hear of silence
        self._look = trio.lowlevel.ParkingLot()
        self._hearing = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._early: list[events.Event] = []
        self.asked_at = trio.current_time()
        self.newcomer = False
        self.on_open: Callable[[], None] = lambda: None

    @property
    def rtt_ms(self) -> float | None:
        """The smoothed round trip, None before the first ping was answered."""
        return self._pulse.rtt_ms

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The other end's raw certificates, its own first."""
        return self.session.peer_chain

    @property
    def features(self) -> tuple[str, ...]:
        """What the other end says it can do."""
        return self.session.peer_features

    @property
    def handshake_hash(self) -> bytes:
        """Names this link; equal at both ends and nowhere else."""
        return self.session.handshake_hash

    @property
    def initiator(self) -> bool:
        """Whether this end dialled."""
        return self.session.initiator

    @property
    def joining(self) -> bool:
        """Whether only JOIN may pass yet."""
        return self.session.state is SessionState.JOINING

    @property
    def alive(self) -> bool:
        """Whether the link has not been lost or closed."""
        return self.error is None

    def in_doubt(self, for_s: float = 0.0) -> bool:
        """Whether its other end was doubted and has not been heard since, for so many seconds."""
        return self._pulse.in_doubt(trio.current_time(), for_s)

    def doubt(self) -> None:
        """The other end may be gone: ask it now."""
        self._pulse.doubt(trio.current_time())
        self.probe()  # one that was lost a moment ago can be doubted still

    @property
    def heard_at(self) -> float:
        """When anything last came from the other end."""
        return self._pulse.heard_at

    def probe(self) -> None:
        """Ask the other end now whether it is there; not twice: TCP sends again what is lost, before all else."""
        if self.alive and not self._pulse.asking:
            self._ping()

    def watch(self, stream: Stream) -> None:
        """From now on an answer is due on this stream: tell it when the link falls silent, and again each
        ANSWER_PROBE_S while it stays so.
        """
        self._watched[stream] = None
        self._pulse.watched = True
        self._look.unpark_all()

    def unwatch(self, stream: Stream) -> None:
        """Nothing is due on this stream any more."""
        self._watched.pop(stream, None)
        self._pulse.watched = bool(self._watched)

    async def heard(self) -> None:
        """Wait until anything at all comes from the other end; for ever if the link is lost."""
        await self._hearing.park()

    @property
    def busy(self) -> bool:
        """Whether a stream is open or a request of ours is waiting."""
        return bool(self._streams or self._replies)

    def promote(self, chain: tuple[bytes, ...] = ()) -> None:
        """The certificate came: everything may pass."""
        self.session.promote(chain)

    async def closed(self) -> None:
        """Wait until the link is lost or closed; `error` then says why."""
        await self._closed.wait()

    # --- Sending ---

    async def request(self, message: Message, timeout_s: float = 3.0) -> Message:
        """Ask and wait for the reply; raises Unreachable, or the error that the other end answers with."""
        pending = Pending()
        with trio.move_on_after(timeout_s):
            async with self._asking:
                self._check()
                self.asked_at = trio.current_time()
                number = self.session.request(message)
                self._replies[number] = pending
                try:
                    await self.flush()
                    await pending.event.wait()
                finally:
                    del self._replies[number]
                    self.session.forget(number)
        if pending.reply is None:
            self._check()
            raise Unreachable(f"{self.name} did not answer within {timeout_s:g} s.")
        if isinstance(pending.reply, Refusal):
            raise error_from(pending.reply)
        return pending.reply

    async def ask_first(self, message: Message, timeout_s: float = 3.0) -> Message:
        """As `request`, before `run`, on a link that nobody serves yet; what comes with the reply waits for `run`.

        Raises what the other end turned us away with, too, if it had not admitted us yet.
        """
        number = self.session.request(message)
        try:
            with trio.fail_after(timeout_s):
                await self.flush()
                reply = await self._first_reply(number)
        except trio.TooSlowError:
            raise Unreachable(f"{self.name} did not answer within {timeout_s:g} s.") from None
        except RemoteWireError as error:
            raise Unreachable(f"{self.name} broke the protocol: {error}.") from error
        if isinstance(reply, Refusal):
            raise error_from(reply)
        return reply

    async def _first_reply(self, number: int) -> Message:
        reply: Message | None = None
        while reply is None:
            for event in self.session.receive_data(await self._transport.receive()):
                if isinstance(event, events.Reply) and event.number == number:
                    reply = event.message
                elif reply is not None:
                    self._early.append(event)
                elif isinstance(event, events.Closed):
                    raise error_of(event.code, turned_away(self.remote, event))
                elif not isinstance(event, events.Established):
                    raise RemoteWireError("something else came before the reply")
        self._pulse.heard(trio.current_time())
        return reply

    def reply(self, number: int, message: Message) -> None:
        """Queue the answer to a request; a certificate opens a joining link."""
        was_joining = self.joining
        self.session.reply(number, message)
        if was_joining and not self.joining:
            self.newcomer = True
            self.on_open()

    async def ping(self) -> float:
        """The round trip of a ping of its own, in milliseconds, however long it takes; raises Unreachable."""
        async with self._asking:
            self._check()
            return await self._pongs.of(self._ping())

    async def notify(self, message: Message) -> None:
        """Send a message that wants no reply; raises Unreachable."""
        self._check()
        self.session.notify(message)
        await self.flush()

    def post(self, *messages: Message) -> None:
        """As `notify`, without waiting: dropped where the link is lost, or much waits to be written already."""
        if self.alive:
            self._writer.post(messages)

    async def open(self, opening: Open) -> Stream:
        """Open a stream; raises Unreachable, or Busy when there are as many as the other end allows."""
        self._check()
        if not self.session.may_open:
            raise Busy(f"There are as many streams to {self.name} as it allows.", retry_after_s=1.0)
        stream = self.accept(self.session.open(opening))
        await self.flush()
        return stream

    async def aclose(self, code: CloseCode = CloseCode.GOING_AWAY, reason: str = "") -> None:
        """Say goodbye and close. Streams and requests break at once. Safe to call twice."""
        self.session.goaway(code, reason)
        self._lose(Unreachable(f"The link to {self.name} was closed."), stop=False)
        with trio.CancelScope(shield=True):
            await self._writer.finish()
            await self._transport.aclose()
        self._scope.cancel()

    async def flush(self) -> None:
        """Write what is queued; see `Writer.flush`."""
        await self._writer.flush()

    # --- What streams ask of it ---

    def credit(self, stream: int) -> int:
        """The longest payload that may be sent on the stream now."""
        return self.session.credit(stream)

    async def send_data(self, stream: int, payload: bytes, end: bool) -> None:
        """Send a payload that is within the credit."""
        self.session.send_data(stream, payload, end)
        if end:
            self._settle(stream)
        await self.flush()

    def consumed(self, stream: int, payload_bytes: int) -> None:
        """A stream's reader has used a payload."""
        self.session.consumed(stream, payload_bytes)
        self._settle(stream)
        self._writer.wake()

    def _settle(self, stream: int) -> None:
        """Forget a stream that ended both ways and was read to its end."""
        found = self._streams.get(stream)
        if found is not None and found.finished:
            del self._streams[stream]

    def reset(self, stream: int, code: ResetCode) -> None:
        """A stream's user gives it up."""
        self.session.reset(stream, code)
        self._streams.pop(stream, None)
        self._writer.wake()

    # --- Running ---

    async def run(self, on_request: OnRequest, on_stream: OnStream, on_notice: OnNotice) -> None:
        """Serve the link until it is lost or closed; returns then, with everything on it ended.

        Each request and stream of the other end gets a task of its own; notices are handled one by one.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    inbox = Inbox(self, nursery, on_request, on_stream, on_notice)
                    for event in self._early:
                        inbox.take(event)
                    self._early.clear()
                    nursery.start_soon(self._writer.run)
                    nursery.start_soon(self._keep_alive)
                    nursery.start_soon(inbox.handle_notices)
                    nursery.start_soon(self._read, inbox)
        finally:
            with trio.CancelScope(shield=True):
                if self.alive:
                    await self.aclose()  # we were cancelled: the other end need not wait for silence
                await self._transport.aclose()

    async def _read(self, inbox: Inbox) -> None:
        try:
            while True:
                message = await self._transport.receive()
                self._pulse.heard(trio.current_time())
                if self._hearing:
                    self._hearing.unpark_all()
                for event in self.session.receive_data(message):
                    inbox.take(event)
                self._writer.push()
        except Unreachable as error:
            self._lose(error)
        except RemoteWireError as error:
            self._lose(Unreachable(f"{self.name} broke the protocol: {error}."), stop=False)
            await self._writer.finish()  # the GOAWAY that says why
            self._scope.cancel()

    async def _keep_alive(self) -> None:
        """Ping every PING_S, and when watched silence lasts; the link is lost after DEAD_LINK_S of it."""
        while self.alive and not self._pulse.is_dead(now := trio.current_time()):
            if self._pulse.wants_ping(now):
                self._ping()
            if self._watched and self._pulse.is_suspicious(now):
                self._suspect(now)
            with trio.move_on_at(self._pulse.next_look(now)):
                await self._look.park()
        if self.alive:
            self._lose(Unreachable(f"{self.name} has been silent for {limits.DEAD_LINK_S:g} s."))

    def _suspect(self, now: float) -> None:
        """An answer is due, a ping is overdue, and nothing has come meanwhile."""
        self._pulse.doubt(now)
        for stream in self._watched:
            stream.fell_silent()

    def _ping(self) -> int:
        token = self._pulse.ping(trio.current_time())
        if self.alive:  # else it says goodbye already
            self.session.ping(token)
            self._writer.push()
        return token

    def _check(self) -> None:
        if self.error is not None:
            raise Unreachable(self.error.message, hint=self.error.hint)

    def _lose(self, error: MeshError, *, stop: bool = True, code: ResetCode = ResetCode.LINK_LOST) -> None:
        """The link is gone: everything on it breaks at once. The first reason is the one that counts."""
        if self.error is None:
            self.error = error
            self._closed.set()
            for stream in self._streams.values():
                stream.break_off(code)
            self._watched.clear()
            self._streams.clear()
            for pending in self._replies.values():
                pending.event.set()
            self._pongs.end()
        if stop:
            self._scope.cancel()

    # --- What the inbox tells it ---

    def received(self, number: int, payload: bytes, end: bool) -> None:
        """A payload came on a stream; the credit of one that nobody reads any more goes straight back."""
        stream = self._streams.get(number)
        if stream is None:
            self.session.consumed(number, len(payload))
            return
        stream.arrived(payload, end)
        if end:
            self._settle(number)

    def accept(self, number: int) -> Stream:
        """A stream that either end has opened."""
        return self._streams.setdefault(number, Stream(self, number))

    def take(self, event: events.Event) -> None:
        """An event that is about what this end began."""
        match event:
            case events.StreamWritable(0):
                for stream in self._streams.values():
                    stream.writable()
            case events.StreamWritable(number) if number in self._streams:
                self._streams[number].writable()
            case events.StreamReset(number, code) if number in self._streams:
                self._streams.pop(number).break_off(code)
            case events.Reply(number, message) if number in self._replies:
                self._replies[number].came(message)
            case events.Pong(token):
                self._pulse.ponged(token, trio.current_time())
                self._pongs.came(token)
            case events.Closed(code, reason):  # who says goodbye wants nothing any more
                said = f"{self.name} closed the link: {reason or code.name.lower()}."
                self._lose(error_of(code, said), code=ResetCode.CANCEL)
