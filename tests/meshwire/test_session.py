"""Sessions as plays: two of them, or one and a forger, and what comes out."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwire import limits
from meshwire import messages as m
from meshwire.codec import encode_data, encode_frame
from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.events import (
    Closed,
    Established,
    Introduced,
    Notice,
    Pong,
    Reply,
    Request,
    StreamOpened,
    StreamReceived,
    StreamReset,
    StreamWritable,
)
from meshwire.ids import node_id
from meshwire.introduction import write_introduction
from meshwire.messages import Open, Refusal
from meshwire.noise import Handshake, public_of
from meshwire.numbers import Flag, Message, ResetCode
from meshwire.session import OUTBOX_MAX, Session, circuit_prologue, link_prologue
from meshwire.states import SessionState
from meshwire.streams import FRAME_COST
from tests.meshwire.pairs import MESH, Pair, circuit_configs, config, join, keys, open_pair


def forge(session: Session, *frames: bytes) -> None:
    """Have a session send frames that it never would by itself."""
    for frame in frames:
        session._put(frame)


def breaks(pair: Pair) -> CloseCode:
    """The code with which b closes over what a has queued."""
    with pytest.raises(RemoteWireError) as caught:
        pair.settle()
    assert pair.b.state is SessionState.CLOSED
    return caught.value.code


# --- Handshake ---


def test_both_ends_prove_their_keys_and_agree_on_the_hash() -> None:
    pair = Pair(config("a", initiator=True, chain=(b"cert",), features=("x",)), config("b", initiator=False))
    pair.shake_hands()
    (of_a,) = pair.events(pair.b, Introduced)
    (of_b,) = pair.events(pair.a, Introduced)
    assert of_a == Introduced(keys("a")[2].public, (b"cert",), ("x",))
    assert of_b == Introduced(keys("b")[2].public, (), ())
    assert pair.a.handshake_hash == pair.b.handshake_hash
    assert (pair.a.state, pair.b.state) == (SessionState.OPEN, SessionState.OPEN)
    assert pair.b.peer_id == node_id(keys("a")[2].public)
    assert (pair.b.peer_chain, pair.b.peer_features) == ((b"cert",), ("x",))


def test_the_initiator_learns_that_it_is_admitted() -> None:
    pair = open_pair()
    assert pair.a.confirmed
    assert len(pair.events(pair.a, Established)) == 1
    pair.a.ping(1)
    pair.settle()
    assert len(pair.events(pair.b, Established)) == 1


def test_the_initiator_tells_who_it_is_only_after_it_has_admitted() -> None:
    pair = Pair(answer=lambda session, event: None)
    pair.a.start()
    pair.settle()
    assert pair.a.state is SessionState.INTRODUCED
    assert pair.b.state is SessionState.HANDSHAKE
    assert len(pair.carried) == 2


def test_a_circuit_takes_one_round_trip() -> None:
    pair = Pair(*circuit_configs()).shake_hands()
    assert len(pair.carried) == 2
    assert pair.a.confirmed
    assert (pair.a.state, pair.b.state) == (SessionState.OPEN, SessionState.OPEN)


@pytest.mark.parametrize(
    "prologue", [link_prologue(2, MESH), link_prologue(1, b"x" * 16), circuit_prologue(1, MESH, b"a", b"b")]
)
def test_another_prologue_does_not_open(prologue: bytes) -> None:
    pair = Pair(b=config("b", initiator=False, prologue=prologue))
    with pytest.raises(RemoteWireError) as caught:
        pair.shake_hands()
    assert caught.value.code is CloseCode.DECRYPT


def test_prologues_do_not_run_together() -> None:
    assert circuit_prologue(1, MESH, b"ab", b"c") != circuit_prologue(1, MESH, b"a", b"bc")


def test_a_node_does_not_talk_to_itself() -> None:
    pair = Pair(b=config("b", initiator=False, signer=keys("a")[2]))
    with pytest.raises(RemoteWireError) as caught:
        pair.shake_hands()
    assert caught.value.code is CloseCode.SELF


def test_a_signature_over_another_static_key_is_refused() -> None:
    """A man in the middle shows somebody else's key and signature over his own Noise key."""
    static, ephemeral, victim = keys("b")
    middle = Handshake("XX", False, link_prologue(1, MESH), keys("m")[0], ephemeral)
    session = Session(config("a", initiator=True))
    session.start()
    (first,) = session.data_to_send()
    middle.read(first)
    stolen = write_introduction(victim, public_of(static), (), ())
    with pytest.raises(RemoteWireError) as caught:
        session.receive_data(middle.write(stolen))
    assert caught.value.code is CloseCode.BAD_SIGNATURE
    assert session.state is SessionState.CLOSED
    assert session.data_to_send() == []


def test_the_responder_says_why_it_refuses() -> None:
    def answer(session: Session, _: Introduced) -> None:
        if session is pair.b:
            session.refuse(CloseCode.REVOKED, "revoked yesterday")
        else:
            session.admit()

    pair = Pair(answer=answer)
    pair.shake_hands()
    assert pair.events(pair.a, Closed) == [Closed(CloseCode.REVOKED, "revoked yesterday")]
    assert pair.events(pair.a, Established) == []
    assert (pair.a.state, pair.b.state) == (SessionState.CLOSED, SessionState.CLOSED)


def test_a_refusing_worker_says_why_over_a_circuit() -> None:
    def answer(session: Session, _: Introduced) -> None:
        if session is pair.b:
            session.refuse(CloseCode.NOT_MEMBER, "who are you")
        else:
            session.admit()

    pair = Pair(*circuit_configs(), answer=answer)
    pair.shake_hands()
    assert pair.events(pair.a, Closed) == [Closed(CloseCode.NOT_MEMBER, "who are you")]


def test_a_refusing_initiator_stays_unknown() -> None:
    pair = Pair(answer=lambda session, _: session.refuse(CloseCode.WRONG_MESH, "no"))
    pair.shake_hands()
    assert len(pair.carried) == 2
    assert pair.b.state is SessionState.HANDSHAKE


# --- What passes on the wire ---


def test_nothing_readable_passes() -> None:
    pair = open_pair()
    stream = pair.a.open(Open("ask"))
    pair.a.send_data(stream, b"attack at dawn")
    pair.settle()
    assert not any(b"attack" in message for message in pair.carried)


def test_an_unsealed_session_carries_plain_text() -> None:
    pair = open_pair(sealed=False)
    stream = pair.a.open(Open("ask"))
    pair.a.send_data(stream, b"attack at dawn")
    pair.settle()
    assert any(b"attack at dawn" in message for message in pair.carried)
    assert pair.events(pair.b, StreamReceived) == [StreamReceived(stream, b"attack at dawn", False)]


def test_frames_that_wait_go_out_together() -> None:
    pair = open_pair()
    streams = [pair.a.open(Open("ask")) for _ in range(10)]
    for stream in streams:
        pair.a.send_data(stream, b"x" * 64)
    (message,) = pair.a.data_to_send()
    assert len(message) < 1500
    assert not pair.a.has_output


@given(st.data())
def test_changed_or_cut_messages_close_the_session(data: st.DataObject) -> None:
    pair = open_pair()
    pair.a.notify(m.GossipAck((b"record",)))
    (message,) = pair.a.data_to_send()
    changed = bytearray(message)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    bad = data.draw(st.sampled_from([bytes(changed), message[: data.draw(st.integers(0, len(message) - 1))]]))
    with pytest.raises(RemoteWireError) as caught:
        pair.b.receive_data(bad)
    assert caught.value.code is CloseCode.DECRYPT
    assert pair.b.state is SessionState.CLOSED
    assert pair.b.receive_data(message) == []
    (goodbye,) = pair.b.data_to_send()
    assert pair.a.receive_data(goodbye)[-1] == Closed(CloseCode.DECRYPT, "decrypt")


@given(st.binary(max_size=300), st.integers(0, 2))
def test_random_bytes_close_the_session_at_any_time(noise: bytes, after: int) -> None:
    pair = Pair()
    pair.a.start()
    for _ in range(after):
        pair._carry(pair.a, pair.b)
        pair._carry(pair.b, pair.a)
    with pytest.raises(RemoteWireError):
        pair.b.receive_data(noise)
    assert pair.b.state is SessionState.CLOSED


@given(st.binary(max_size=200))
def test_random_frames_raise_remote_errors_only(noise: bytes) -> None:
    pair = open_pair(sealed=False)
    try:
        pair.b.receive_data(noise)
    except RemoteWireError:
        assert pair.b.state is SessionState.CLOSED


def test_a_replayed_message_closes_the_session() -> None:
    pair = open_pair()
    pair.a.ping(1)
    (message,) = pair.a.data_to_send()
    pair.b.receive_data(message)
    with pytest.raises(RemoteWireError):
        pair.b.receive_data(message)


def test_the_last_word_ends_it() -> None:
    pair = open_pair()
    pair.a.goaway(CloseCode.GOING_AWAY, "stopping")
    pair.a.goaway(CloseCode.PROTOCOL, "twice")
    pair.settle()
    assert pair.events(pair.b, Closed) == [Closed(CloseCode.GOING_AWAY, "stopping")]
    with pytest.raises(LocalWireError):
        pair.a.ping(1)


def test_a_message_too_long_is_refused() -> None:
    pair = open_pair(sealed=False)
    with pytest.raises(RemoteWireError) as caught:
        pair.b.receive_data(bytes(limits.TRANSPORT_MESSAGE_MAX + 1))
    assert caught.value.code is CloseCode.TOO_LARGE


# --- Requests ---


def test_a_request_gets_its_reply() -> None:
    pair = open_pair()
    number = pair.a.request(m.DhtFind(b"t" * 20))
    pair.settle()
    (asked,) = pair.events(pair.b, Request)
    assert asked.message == m.DhtFind(b"t" * 20)
    pair.b.reply(asked.number, m.DhtFound((b"node",)))
    pair.settle()
    assert pair.events(pair.a, Reply) == [Reply(number, m.DhtFound((b"node",)))]


def test_a_request_may_be_refused() -> None:
    pair = open_pair()
    number = pair.a.request(m.DhtPing())
    pair.settle()
    pair.b.refuse_request(pair.events(pair.b, Request)[0].number, Refusal("busy", "later"))
    pair.settle()
    assert pair.events(pair.a, Reply) == [Reply(number, Refusal("busy", "later"))]


def test_a_late_reply_is_dropped_and_one_to_nothing_is_refused() -> None:
    pair = open_pair()
    number = pair.a.request(m.DhtPing())
    pair.settle()
    pair.a.forget(number)
    pair.b.reply(number, m.DhtPong())
    pair.settle()
    assert pair.events(pair.a, Reply) == []
    forge(pair.a, encode_frame(m.DhtPong(), 77, Flag.REPLY))
    assert breaks(pair) is CloseCode.PROTOCOL


def test_a_reply_must_answer_its_request() -> None:
    pair = open_pair()
    pair.b.request(m.DhtPing())
    forge(pair.a, encode_frame(m.DhtStored(), 1, Flag.REPLY))
    assert breaks(pair) is CloseCode.PROTOCOL
    with pytest.raises(LocalWireError):
        open_pair().a.reply(1, m.DhtPong())


def test_requests_are_bounded_on_both_sides() -> None:
    pair = open_pair()
    for _ in range(limits.PENDING_REQUESTS):
        pair.a.request(m.DhtPing())
    with pytest.raises(LocalWireError):
        pair.a.request(m.DhtPing())
    forge(pair.a, encode_frame(m.DhtPing(), 1000))
    pair.a._exchange._next = 1001  # else the refusal answers nothing
    pair.settle()
    assert len(pair.events(pair.b, Request)) == limits.PENDING_REQUESTS
    assert not any(reply.number == 1000 for reply in pair.events(pair.a, Reply))
    assert 1000 not in pair.b._exchange._asked


def test_a_notice_wants_no_reply() -> None:
    pair = open_pair()
    pair.a.notify(m.GossipAck((b"r",)))
    pair.settle()
    assert pair.events(pair.b, Notice) == [Notice(m.GossipAck((b"r",)))]


def test_pings_are_answered_by_the_session() -> None:
    pair = open_pair()
    pair.a.ping(42)
    pair.settle()
    assert pair.events(pair.a, Pong) == [Pong(42)]


def test_an_end_that_asks_but_never_reads_is_closed() -> None:
    pair = open_pair(sealed=False)
    flood = encode_frame(m.Ping(2**62)) * 4000
    while pair.b.queued_bytes <= OUTBOX_MAX - 60_000:
        pair.b.receive_data(flood)
    with pytest.raises(RemoteWireError) as caught:
        pair.b.receive_data(flood)
    assert caught.value.code is CloseCode.TOO_MANY


# --- Joining ---

JOIN = m.Join(b"t" * 8, b"m" * 32, b"k" * 32, b"", b"i" * 32)


def joining_pair(**changes: Any) -> Pair:
    pair = Pair(config("a", initiator=True, **changes), config("b", initiator=False, **changes), answer=join)
    return pair.shake_hands()


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Open("ask"), 1),
        encode_frame(m.DhtPing(), 1),
        encode_frame(m.GossipAck(())),
        encode_frame(m.Window(5)),
        encode_data(1, b"x"),
    ],
)
def test_a_joining_session_admits_join_only(frame: bytes) -> None:
    pair = joining_pair()
    forge(pair.a, frame)
    assert breaks(pair) is CloseCode.PROTOCOL


@pytest.mark.parametrize("message", [m.DhtPing(), m.GossipSyn()])
def test_a_joining_end_asks_for_nothing_else(message: Message) -> None:
    pair = joining_pair()
    with pytest.raises(LocalWireError):
        pair.a.request(message)
    with pytest.raises(LocalWireError):
        pair.a.open(Open("ask"))


def test_a_certificate_opens_the_session_at_both_ends_at_once() -> None:
    pair = joining_pair()
    pair.a.request(JOIN)
    pair.settle()
    pair.b.reply(pair.events(pair.b, Request)[0].number, m.Joined((b"cert", b"issuer")))
    pair.b.notify(m.GossipAck(()))  # in the same message as the certificate
    pair.settle()
    assert pair.events(pair.a, Notice) == [Notice(m.GossipAck(()))]
    assert (pair.a.state, pair.b.state) == (SessionState.OPEN, SessionState.OPEN)
    assert pair.b.peer_chain == (b"cert", b"issuer")


def test_a_certificate_that_nobody_asked_for_opens_nothing() -> None:
    pair = joining_pair()
    forge(pair.a, encode_frame(m.Joined((b"cert",)), 1, Flag.REPLY))
    breaks(pair)
    pair = joining_pair()
    pair.b.request(JOIN)
    pair.b.forget(1)
    forge(pair.a, encode_frame(m.Joined((b"cert",)), 1, Flag.REPLY))
    pair.settle()
    assert pair.b.state is SessionState.JOINING


# --- Streams ---


def test_payloads_come_in_order_and_end() -> None:
    pair = open_pair()
    stream = pair.a.open(Open("ask", request=b"r"))
    pair.a.send_data(stream, b"one")
    pair.a.send_data(stream, b"two", end=True)
    pair.settle()
    assert pair.events(pair.b, StreamOpened) == [StreamOpened(stream, Open("ask", request=b"r"))]
    assert pair.events(pair.b, StreamReceived) == [
        StreamReceived(stream, b"one", False),
        StreamReceived(stream, b"two", True),
    ]
    with pytest.raises(LocalWireError):
        pair.a.send_data(stream, b"more")


def test_a_finished_stream_is_forgotten_by_both() -> None:
    pair = open_pair()
    stream = pair.a.open(Open("ask"))
    pair.a.send_data(stream, b"ask", end=True)
    pair.settle()
    pair.b.send_data(stream, b"answer", end=True)
    pair.settle()
    pair.a.consumed(stream, 6)
    assert pair.b.has_stream(stream)
    pair.b.consumed(stream, 3)
    assert not pair.a.has_stream(stream)
    assert not pair.b.has_stream(stream)


def test_credit_runs_out_and_comes_back() -> None:
    pair = open_pair()
    stream = pair.a.open(Open("ask"))
    payload = 16 * 1024
    while pair.a.credit(stream) >= payload:
        pair.a.send_data(stream, bytes(payload))
    with pytest.raises(LocalWireError):
        pair.a.send_data(stream, bytes(payload))
    pair.settle()
    received = pair.events(pair.b, StreamReceived)
    assert len(received) == 3
    pair.b.consumed(stream, payload)
    pair.settle()
    assert pair.events(pair.a, StreamWritable) == []  # less than half the window
    pair.b.consumed(stream, payload)
    pair.settle()
    assert pair.events(pair.a, StreamWritable) == [StreamWritable(stream)]
    assert pair.a.credit(stream) >= payload


def test_data_over_the_stream_credit_resets_the_stream() -> None:
    pair = open_pair()
    stream, other = pair.a.open(Open("ask")), pair.a.open(Open("ask"))
    for _ in range(3):
        forge(pair.a, encode_data(stream, bytes(30_000)))
    pair.a.send_data(other, b"fine")
    pair.settle()
    assert pair.events(pair.b, StreamReset) == [StreamReset(stream, ResetCode.CREDIT)]
    assert pair.events(pair.a, StreamReset) == [StreamReset(stream, ResetCode.CREDIT)]
    assert StreamReceived(other, b"fine", False) in pair.events(pair.b, StreamReceived)


def test_data_over_the_connection_credit_closes_the_session() -> None:
    pair = open_pair(sealed=False)
    streams = [pair.a.open(Open("ask")) for _ in range(20)]
    for stream in streams:
        forge(pair.a, encode_data(stream, bytes(32_000)), encode_data(stream, bytes(32_000)))
    assert breaks(pair) is CloseCode.CREDIT


def test_many_tiny_frames_use_up_the_credit() -> None:
    pair = open_pair()
    stream = pair.a.open(Open("ask"))
    sent = 0
    while pair.a.credit(stream):
        pair.a.send_data(stream, b"x")
        sent += 1
    assert 0.9 < sent / (limits.STREAM_CREDIT // (1 + FRAME_COST)) <= 1


@pytest.mark.parametrize(
    "frames",
    [
        [encode_data(99, b"x")],  # never opened
        [encode_data(2, b"x")],  # would be theirs
        [encode_frame(Open("ask"), 2)],  # their number
        [encode_frame(Open("ask"), 5), encode_frame(Open("ask"), 3)],  # backwards
        [encode_frame(Open("ask"), 1), encode_data(1, b"")],  # nothing
        [encode_frame(Open("ask"), 1), encode_data(1, b"", end=True), encode_data(1, b"x")],
        [encode_frame(m.Window(5), 99)],
        [encode_frame(m.Reset(ResetCode.CANCEL), 99)],
        [encode_frame(m.Window(5))],  # more than the window holds
    ],
)
def test_frames_that_make_no_sense_close_the_session(frames: list[bytes]) -> None:
    pair = open_pair()
    forge(pair.a, *frames)
    assert breaks(pair) in (CloseCode.PROTOCOL, CloseCode.CREDIT)


def test_a_reset_frees_credit_and_what_crosses_it_is_ignored() -> None:
    pair = open_pair()
    for _ in range(40):  # more in all than the connection's credit
        stream = pair.a.open(Open("ask"))
        pair.a.send_data(stream, bytes(30_000))
        pair._carry(pair.a, pair.b)
        pair.b.reset(stream, ResetCode.CANCEL)
        pair.a.send_data(stream, b"crossing")
        pair.settle()
        assert pair.events(pair.a, StreamReset) == [StreamReset(stream, ResetCode.CANCEL)]
        assert not pair.a.has_stream(stream)
    pair.b.consumed(stream, 30_000)  # late, and harmless
    pair.a.reset(stream, ResetCode.CANCEL)
    assert not pair.a.has_output


def test_streams_without_an_answer_are_bounded() -> None:
    pair = open_pair()
    opened = [pair.a.open(Open("ask")) for _ in range(limits.PENDING_OPENS)]
    assert not pair.a.may_open
    with pytest.raises(LocalWireError):
        pair.a.open(Open("ask"))
    forge(pair.a, encode_frame(Open("ask"), 999))
    pair.a._streams._next = 1001  # else the reset is for no stream
    pair.settle()
    assert len(pair.events(pair.b, StreamOpened)) == limits.PENDING_OPENS
    pair.b.send_data(opened[0], b"here")
    pair.settle()
    assert pair.a.may_open


def test_streams_are_bounded() -> None:
    pair = open_pair()
    for _ in range(limits.INBOUND_STREAMS):
        stream = pair.a.open(Open("ask"))
        pair.settle()
        pair.b.send_data(stream, b"here")
        pair.settle()
    assert not pair.a.may_open
    pair.a.reset(1, ResetCode.CANCEL)
    assert pair.a.may_open


class Talk:
    """Both ends open, send, consume, end and reset at random, with messages under way."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pair = open_pair()
        self.sent: dict[tuple[Session, int], list[bytes]] = {}
        self.got: dict[tuple[Session, int], list[bytes]] = {}
        self.held: list[tuple[Session, int, int]] = []
        self.ended: set[tuple[Session, int]] = set()

    def act(self) -> None:
        session, other = self.rng.choice([(self.pair.a, self.pair.b), (self.pair.b, self.pair.a)])
        streams = [n for n in session._streams._streams if (session, n) not in self.ended]
        action = self.rng.choice([self.open, self.send, self.send, self.consume, self.deliver, self.reset])
        action(session, other, self.rng.choice(streams) if streams else 0)

    def open(self, session: Session, other: Session, stream: int) -> None:
        if session.may_open:
            session.open(Open("ask"))

    def send(self, session: Session, other: Session, stream: int) -> None:
        payload = self.rng.randbytes(4) * self.rng.choice([1, 100, 4000, 8000])
        if stream and session.credit(stream) >= len(payload):
            end = self.rng.random() < 0.2
            session.send_data(stream, payload, end)
            self.sent.setdefault((session, stream), []).append(payload)
            self.ended |= {(session, stream)} if end else set()

    def consume(self, session: Session, other: Session, stream: int) -> None:
        if self.held:
            target, held_on, size = self.held.pop(self.rng.randrange(len(self.held)))
            target.consumed(held_on, size)

    def reset(self, session: Session, other: Session, stream: int) -> None:
        if self.rng.random() < 0.3:
            session.reset(stream, ResetCode.CANCEL)

    def deliver(self, session: Session, other: Session, stream: int) -> None:
        for message in session.data_to_send():
            for event in other.receive_data(message):
                if isinstance(event, StreamReceived):
                    self.got.setdefault((session, event.stream), []).append(event.payload)
                    self.held.append((other, event.stream, len(event.payload)))


@given(st.integers(0, 2**32), st.integers(20, 150))
def test_two_sessions_talking_keep_order_and_credit(seed: int, steps: int) -> None:
    talk = Talk(seed)
    for _ in range(steps):
        talk.act()
    for _ in range(3):
        talk.deliver(talk.pair.a, talk.pair.b, 0)
        talk.deliver(talk.pair.b, talk.pair.a, 0)
    for key, payloads in talk.got.items():
        assert payloads == talk.sent[key][: len(payloads)]
    assert (talk.pair.a.state, talk.pair.b.state) == (SessionState.OPEN, SessionState.OPEN)
