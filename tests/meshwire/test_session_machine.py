"""Two sessions, a channel that may lag, and any order of calls: nothing is lost, repeated or sent beyond the credit.

The model knows what was sent and has not arrived. Sessions that keep to the rules never hear a RemoteWireError.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshwire import limits
from meshwire.codec import DATA_PAYLOAD_MAX
from meshwire.errors import CloseCode, LocalWireError
from meshwire.events import (
    Closed,
    Event,
    Introduced,
    Notice,
    Pong,
    Reply,
    Request,
    StreamOpened,
    StreamReceived,
    StreamReset,
)
from meshwire.messages import DhtPing, DhtPong, GossipAck, Open, Refusal
from meshwire.numbers import ResetCode
from meshwire.session import Session
from tests.machines import PLAYED
from tests.meshwire.pairs import open_pair

sides = st.sampled_from((0, 1))
numbers = st.integers(0, 2**16)


@dataclass
class End:
    """One session, and what its user and the model know at this end."""

    session: Session
    inbox: deque[bytes] = field(default_factory=deque)  # transport messages on their way here
    streams: set[int] = field(default_factory=set)  # of which this user has heard, and no end yet
    over: set[int] = field(default_factory=set)  # given up here, or heard to be
    unread: list[tuple[int, int]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)  # requests that wait for this user's answer
    asking: dict[int, bool] = field(default_factory=dict)  # requests of this user: whether it still waits
    closed: bool = False
    coming: dict[int, deque[tuple[bytes, bool]]] = field(default_factory=lambda: defaultdict(deque))
    notices: int = 0
    pongs: deque[int] = field(default_factory=deque)


class SessionMachine(RuleBasedStateMachine):
    """Both users do what they like; the channel carries in order, when it likes."""

    def __init__(self) -> None:
        super().__init__()
        pair = open_pair()
        self.ends = (End(pair.a), End(pair.b))
        self.count = 0

    def collect(self) -> None:
        """What the sessions want sent goes into the channel."""
        for side, end in enumerate(self.ends):
            self.ends[1 - side].inbox.extend(end.session.data_to_send())

    # --- The users ---

    @rule(side=sides)
    def open(self, side: int) -> None:
        end = self.ends[side]
        if end.session.may_open and not end.closed:
            end.streams.add(end.session.open(Open("ask")))
        elif not end.closed:
            with pytest.raises(LocalWireError):
                end.session.open(Open("ask"))

    @rule(side=sides, which=numbers, size=st.integers(1, 40_000), last=st.booleans())
    def send(self, side: int, which: int, size: int, last: bool) -> None:
        end, far = self.ends[side], self.ends[1 - side]
        if end.closed or not end.streams:
            return
        stream = sorted(end.streams)[which % len(end.streams)]
        credit = end.session.credit(stream)
        assert credit <= limits.STREAM_CREDIT
        size = min(size, credit)
        if size <= 0:
            with pytest.raises(LocalWireError):
                end.session.send_data(stream, b"x" * (credit + 1))
            return
        if size > DATA_PAYLOAD_MAX:
            with pytest.raises(LocalWireError):
                end.session.send_data(stream, b"x" * size)
            return
        self.count += 1
        payload = self.count.to_bytes(4, "big").ljust(size, b".")[:size]
        end.session.send_data(stream, payload, end=last)
        far.coming[stream].append((payload, last))

    @rule(side=sides, which=numbers)
    def consume(self, side: int, which: int) -> None:
        end = self.ends[side]
        if end.unread and not end.closed:
            end.session.consumed(*end.unread.pop(which % len(end.unread)))

    @rule(side=sides, which=numbers)
    def reset(self, side: int, which: int) -> None:
        end = self.ends[side]
        if end.streams and not end.closed:
            self.give_up(end, sorted(end.streams)[which % len(end.streams)])

    def give_up(self, end: End, stream: int) -> None:
        end.session.reset(stream, ResetCode.CANCEL)
        end.streams.discard(stream)
        end.over.add(stream)

    @rule(side=sides)
    def ask(self, side: int) -> None:
        end = self.ends[side]
        if not end.closed and len(end.asking) < limits.PENDING_REQUESTS:
            end.asking[end.session.request(DhtPing())] = True

    @rule(side=sides, refuse=st.booleans(), which=numbers)
    def answer(self, side: int, refuse: bool, which: int) -> None:
        end = self.ends[side]
        if not end.asked or end.closed:
            return
        number = end.asked.pop(which % len(end.asked))
        if refuse:
            end.session.refuse_request(number, Refusal("busy"))
        else:
            end.session.reply(number, DhtPong())

    @rule(side=sides, which=numbers)
    def forget(self, side: int, which: int) -> None:
        end = self.ends[side]
        if end.asking:
            number = sorted(end.asking)[which % len(end.asking)]
            end.session.forget(number)
            del end.asking[number]

    @rule(side=sides, token=st.integers(0, 99))
    def ping(self, side: int, token: int) -> None:
        if not self.ends[side].closed:
            self.ends[side].session.ping(token)
            self.ends[side].pongs.append(token)

    @rule(side=sides)
    def notify(self, side: int) -> None:
        if not self.ends[side].closed:
            self.ends[side].session.notify(GossipAck())
            self.ends[1 - side].notices += 1

    @precondition(lambda self: self.count > 8)
    @rule(side=sides)
    def say_goodbye(self, side: int) -> None:
        self.ends[side].session.goaway(CloseCode.GOING_AWAY)
        self.ends[side].closed = True

    # --- The channel ---

    @rule(side=sides, count=st.integers(1, 5))
    def carry(self, side: int, count: int) -> None:
        self.collect()
        end = self.ends[side]
        for _ in range(min(count, len(end.inbox))):
            for event in end.session.receive_data(end.inbox.popleft()):
                self.heard(end, self.ends[1 - side], event)

    def heard(self, end: End, far: End, event: Event) -> None:
        assert not end.closed or isinstance(event, Introduced), "something came after the end"
        match event:
            case StreamOpened(stream, _):
                end.streams.add(stream)
            case StreamReceived(stream, payload, last):
                assert stream not in end.over, "data on a stream that was given up"
                assert (payload, last) == end.coming[stream].popleft()
                end.unread.append((stream, len(payload)))
            case StreamReset(stream, code):
                assert code in (ResetCode.CANCEL, ResetCode.TOO_MANY)
                end.streams.discard(stream)
                end.over.add(stream)
            case Request(number, _):
                end.asked.append(number)
            case Reply(number, _):
                assert end.asking.pop(number), "a reply to what was not asked"
            case Notice(_):
                end.notices -= 1
            case Pong(token):
                assert token == end.pongs.popleft()
            case Closed(_, _):
                end.closed = True

    @invariant()
    def bounded(self) -> None:
        for end in self.ends:
            assert len(end.asked) <= limits.PENDING_REQUESTS
            assert end.notices >= 0

    def teardown(self) -> None:
        """Let everything arrive: then nothing is missing."""
        for _ in range(4):
            for side in (0, 1):
                self.carry(side, 1000)
                self.carry(1 - side, 1000)
        if any(end.closed for end in self.ends):
            return
        for end in self.ends:
            assert not end.notices
            assert not end.pongs
            for stream, left in end.coming.items():
                assert not left or stream in end.over | self.ends[1 - self.ends.index(end)].over
            for stream, size in end.unread:
                end.session.consumed(stream, size)
            inflow = end.session._streams._inflow
            assert inflow.left + inflow._due == limits.CONNECTION_CREDIT, "credit has leaked"


TestSession = SessionMachine.TestCase
TestSession.settings = PLAYED
