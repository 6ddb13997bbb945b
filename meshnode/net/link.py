"""A link: one authenticated session over one transport, with requests and streams. It decides nothing.

The reader only queues: it never waits for a consumer, and never writes itself.
"""

from collections.abc import Callable

import trio

from meshnode.errors import Busy, MeshError, Unreachable
from meshnode.net.base import Guarded, Transport
from meshnode.net.closing import code_of, error_from, error_of
from meshnode.net.inbox import Inbox, OnNotice, OnRequest, OnStream
from meshnode.net.pulse import Pulse
from meshnode.net.stream import Stream, StreamLost
from meshnode.net.writer import Writer
from meshwire import events, limits
from meshwire.errors import CloseCode, RemoteWireError
from meshwire.ids import NodeId, to_text
from meshwire.messages import Open, Refusal
from meshwire.numbers import Message, ResetCode
from meshwire.session import Session, SessionConfig
from meshwire.states import SessionState

__all__ = ["Link", "Stream", "StreamLost", "establish"]


Judge = Callable[[events.Introduced], bool]


class _Pending:
    """A request that waits for its reply."""

    __slots__ = ("event", "reply")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.reply: Message | None = None


class Link:
    """One link, once both ends have admitted each other. It lives while `run` runs.

    `node` and `key` name the other end, `path_links` is how many links the way there has, `error` is why the
    link was lost; `name` is for people.
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
        self._replies: dict[int, _Pending] = {}
        self._asking = trio.CapacityLimiter(limits.PENDING_REQUESTS)
        self._writer = Writer(transport, session, self._lose)
        self._closed = trio.Event()
        self._pulse = Pulse(trio.current_time())
        self._scope = trio.CancelScope()

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
        """Ask the other end now whether it is there."""
        if self.alive:
            self._ping()

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
        pending = _Pending()
        with trio.move_on_after(timeout_s):
            async with self._asking:
                self._check()
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

    async def notify(self, message: Message) -> None:
        """Send a message that wants no reply; raises Unreachable."""
        self._check()
        self.session.notify(message)
        await self.flush()

    async def open(self, opening: Open) -> Stream:
        """Open a stream; raises Unreachable, or Busy when there are as many as the other end allows."""
        self._check()
        if not self.session.may_open:
            raise Busy(f"There are as many streams to {self.name} as it allows.", retry_after_s=1.0)
        number = self.session.open(opening)
        stream = self._streams[number] = Stream(self, number)
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
                for event in self.session.receive_data(message):
                    inbox.take(event)
                self._writer.wake()
        except Unreachable as error:
            self._lose(error)
        except RemoteWireError as error:
            self._lose(Unreachable(f"{self.name} broke the protocol: {error}."), stop=False)
            await self._writer.finish()  # the GOAWAY that says why
            self._scope.cancel()

    async def _keep_alive(self) -> None:
        """Ping every PING_S; the link is lost after DEAD_LINK_S of silence."""
        while self.alive and not self._pulse.is_dead(trio.current_time()):
            self._ping()
            await trio.sleep_until(self._pulse.next_look(trio.current_time()))
        if self.alive:
            self._lose(Unreachable(f"{self.name} has been silent for {limits.DEAD_LINK_S:g} s."))

    def _ping(self) -> None:
        self.session.ping(self._pulse.ping(trio.current_time()))
        self._writer.wake()

    def _check(self) -> None:
        if self.error is not None:
            raise Unreachable(self.error.message, hint=self.error.hint)

    def _lose(self, error: MeshError, *, stop: bool = True) -> None:
        """The link is gone: everything on it breaks at once. The first reason is the one that counts."""
        if self.error is None:
            self.error = error
            self._closed.set()
            for stream in self._streams.values():
                stream.break_off(ResetCode.LINK_LOST)
            self._streams.clear()
            for pending in self._replies.values():
                pending.event.set()
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
        """The other end opened a stream."""
        stream = self._streams[number] = Stream(self, number)
        return stream

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
                self._replies[number].reply = message
                self._replies[number].event.set()
            case events.Pong(token):
                self._pulse.ponged(token, trio.current_time())
            case events.Closed(code, reason):
                self._lose(error_of(code, f"{self.name} closed the link: {reason or code.name.lower()}."))


async def establish(
    transport: Transport, config: SessionConfig, judge: Judge, *, path_links: int = 1
) -> Link:
    """Shake hands over a fresh transport, within HANDSHAKE_S, and let `judge` answer the introduction.

    `judge` returns True to admit the other end, False if one of the two has no certificate yet and may only
    join, or raises a MeshError to turn it away, which is raised here too. Otherwise raises Unreachable, or
    the error that the other end turned us away with. The transport is closed unless a Link comes back.
    """
    session = Session(config)
    try:
        with trio.fail_after(limits.HANDSHAKE_S):
            await _shake_hands(transport, session, judge)
    except trio.TooSlowError:
        await _close(transport)
        raise Unreachable(
            f"{transport.remote} did not finish the handshake within {limits.HANDSHAKE_S:g} s."
        ) from None
    except BaseException:
        await _close(transport)
        raise
    if isinstance(transport, Guarded):
        transport.introduced()
    return Link(transport, session, path_links)


async def _close(transport: Transport) -> None:
    with trio.CancelScope(shield=True):
        await transport.aclose()


async def _shake_hands(transport: Transport, session: Session, judge: Judge) -> None:
    """Exchange handshake messages until both ends have admitted each other."""
    session.start()
    await _send(transport, session)
    while not session.confirmed and (session.initiator or session.state is SessionState.HANDSHAKE):
        try:
            found = session.receive_data(await transport.receive())
        except RemoteWireError as error:
            await _send(transport, session)
            raise error_of(error.code, f"The handshake with {transport.remote} failed: {error}.") from error
        for event in found:
            await _answer(transport, session, judge, event)
        await _send(transport, session)


async def _answer(transport: Transport, session: Session, judge: Judge, event: events.Event) -> None:
    if isinstance(event, events.Closed):
        reason = event.reason or event.code.name.lower()
        raise error_of(event.code, f"{transport.remote} turned us away: {reason}")
    if not isinstance(event, events.Introduced):
        return
    try:
        welcome = judge(event)
    except MeshError as error:
        session.refuse(code_of(error), error.message)
        await _send(transport, session)
        raise
    if welcome:
        session.admit()
    else:
        session.admit_joining()


async def _send(transport: Transport, session: Session) -> None:
    for message in session.data_to_send():
        await transport.send(message)
