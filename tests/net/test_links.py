"""Links over both networks: one suite, in virtual time on memory and in real time over websockets."""

import pytest
import trio

from meshnode.errors import (
    BadRequest,
    Busy,
    NotAllowed,
    PortInUse,
    Revoked,
    Unreachable,
    WrongMesh,
    WrongProtocol,
)
from meshnode.net.base import Hello
from meshnode.net.establish import establish
from meshnode.net.link import Link, Stream, StreamLost
from meshwire import inner, limits, numbers
from meshwire import messages as m
from meshwire.codec import DATA_PAYLOAD_MAX
from meshwire.errors import LocalWireError
from meshwire.messages import Open
from meshwire.numbers import ResetCode
from meshwire.session import Introduced
from tests.meshwire.pairs import MESH, keys
from tests.net.stage import HELLO, Stage, give, until

ASK = Open("ask")


@pytest.fixture(params=["memory", "websocket"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_link_knows_its_other_end(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        assert near.key == keys("b")[2].public
        assert far.key == keys("a")[2].public
        assert near.handshake_hash == far.handshake_hash
        assert (near.initiator, far.initiator) == (True, False)
        assert near.alive
        assert not near.joining
        assert near.path_links == 1

    give(kind, play)


def test_requests_are_answered_each_in_its_time(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        found: list[numbers.Message] = []

        async def ask(message: numbers.Message) -> None:
            found.append(await near.request(message))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, m.DhtFind(b"t" * 20))
            await trio.sleep(0.01)
            nursery.start_soon(ask, m.DhtPing())
        assert found == [m.DhtPong(), m.DhtFound((b"t" * 20,))]

    give(kind, play)


def test_an_error_crosses_with_its_type(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        with pytest.raises(BadRequest) as caught:
            await near.request(m.RecordGet(b"o" * 20, 1))
        assert (caught.value.message, caught.value.hint) == ("nothing of the kind", "ask for something else")

    give(kind, play)


def test_an_error_too_long_to_travel_is_cut(kind: str) -> None:
    async def play(stage: Stage) -> None:
        async def complain(link: Link, message: numbers.Message) -> numbers.Message | None:
            raise BadRequest("x" * 50_000)

        stage.on_request = complain  # type: ignore[method-assign]  # the play's own behaviour
        near, _ = await stage.pair()
        with pytest.raises(BadRequest):
            await near.request(m.DhtPing())
        assert near.alive

    give(kind, play)


def test_a_request_has_a_timeout(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        with pytest.raises(Unreachable, match=r"within 0\.01 s"):
            await near.request(m.DhtFind(b"t" * 20), timeout_s=0.01)
        assert await near.request(m.DhtPing()) == m.DhtPong()
        assert not near.busy

    give(kind, play)


def test_more_requests_than_the_bound_wait_their_turn(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        answers: list[numbers.Message] = []

        async def ask() -> None:
            answers.append(await near.request(m.DhtFind(b"t" * 20)))

        async with trio.open_nursery() as nursery:
            for _ in range(3 * limits.PENDING_REQUESTS):
                nursery.start_soon(ask)
        assert len(answers) == 3 * limits.PENDING_REQUESTS

    give(kind, play)


def test_notices_arrive(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        await near.notify(m.GossipAck((b"record",)))
        await near.request(m.DhtPing())
        await trio.sleep(0.05)
        assert stage.notices == [m.GossipAck((b"record",))]

    give(kind, play)


def test_payloads_of_any_size_come_back_in_order(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        stream = await near.open(ASK)
        for size in (1, 64, 5_000, DATA_PAYLOAD_MAX, 3):
            await stream.send(bytes([size % 251]) * size)
            assert await stream.receive() == bytes([size % 251]) * size
        await stream.send(b"", end=True)
        assert await stream.receive() is None
        assert await stream.receive() is None
        with pytest.raises(LocalWireError):
            await stream.send(b"after the end")
        assert not near.busy
        await trio.sleep(0.05)
        assert not far.busy

    give(kind, play)


def test_a_payload_longer_than_a_frame_is_our_own_mistake(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        stream = await near.open(ASK)
        with pytest.raises(LocalWireError):
            await stream.send(bytes(DATA_PAYLOAD_MAX + 1))
        await stream.send(b"fine")
        assert await stream.receive() == b"fine"

    give(kind, play)


def test_long_messages_cross_in_parts(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        stream = await near.open(ASK)
        long, short = inner.Ask(bytes(300_000)), inner.Progress(1, 2)

        async def send() -> None:
            await stream.send_message(long)
            await stream.send_message(short, end=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await stream.receive_message() == long
            assert await stream.receive_message() == short
            assert await stream.receive_message() is None

    give(kind, play)


@pytest.mark.parametrize("payload", [b"\0rubbish", b"no such part", b""])
def test_a_message_that_makes_no_sense_breaks_the_stream_only(kind: str, payload: bytes) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        stream = await near.open(ASK)
        await stream.send(payload or b"\1the beginning of something", end=not payload)
        with pytest.raises(StreamLost):
            await stream.receive_message()
        assert near.alive

    give(kind, play)


def test_a_sender_waits_for_a_slow_reader_and_nobody_else_does(kind: str) -> None:
    async def play(stage: Stage) -> None:
        go = trio.Event()

        async def slow(link: Link, stream: Stream, opening: Open) -> None:
            if opening.kind == "quick":
                await stream.send(b"quick", end=True)
                return
            await go.wait()
            while await stream.receive() is not None:
                pass
            await stream.send(b"all of it", end=True)

        stage.on_stream = slow
        near, _ = await stage.pair()
        stuck = await near.open(ASK)
        sent = 0

        async def pour() -> None:
            nonlocal sent
            for _ in range(100):
                await stuck.send(bytes(10_000))
                sent += 1
            await stuck.send(b"", end=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            await trio.sleep(0.2)
            assert sent == limits.STREAM_CREDIT // 10_000
            quick = await near.open(Open("quick"))
            assert await quick.receive() == b"quick"
            assert await near.request(m.DhtPing()) == m.DhtPong()
            go.set()
            assert await stuck.receive() == b"all of it"

    give(kind, play)


def test_streams_that_nobody_reads_do_not_stop_one_that_is_read(kind: str) -> None:
    """Twenty of them could hold all of the connection's credit."""

    async def play(stage: Stage) -> None:
        async def work(_link: Link, stream: Stream, opening: Open) -> None:
            rounds = 10_000 if opening.kind == "stuck" else 300
            for _ in range(rounds):
                await stream.send(bytes(4000))
            await stream.send(b"", end=True)

        stage.on_stream = work
        near, _ = await stage.pair()
        for _ in range(20):
            stream = await near.open(Open("stuck"))
            assert await stream.receive() is not None
        await trio.sleep(0.2)
        read = await near.open(ASK)
        received = 0
        with trio.fail_after(20):
            while (payload := await read.receive()) is not None:
                received += len(payload)
        assert received == 300 * 4000

    give(kind, play)


def test_many_streams_share_the_connection_credit(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        async with trio.open_nursery() as nursery:
            for number in range(24):
                nursery.start_soon(echo_through, near, bytes([number]) * 20_000)

    async def echo_through(link: Link, payload: bytes) -> None:
        stream = await link.open(ASK)
        for _ in range(10):
            await stream.send(payload)
            assert await stream.receive() == payload
        await stream.aclose()

    give(kind, play)


def test_a_reset_reaches_the_other_end_at_once(kind: str) -> None:
    async def play(stage: Stage) -> None:
        codes: list[ResetCode] = []

        async def work(link: Link, stream: Stream, opening: Open) -> None:
            await stream.receive()
            try:
                await stream.lost()
                await stream.send(b"too late")
            except StreamLost as error:
                codes.append(error.code)

        stage.on_stream = work
        near, _ = await stage.pair()
        stream = await near.open(ASK)
        await stream.send(b"begin")
        stream.reset(ResetCode.CANCEL)
        with pytest.raises(StreamLost):
            await stream.receive()
        await trio.sleep(0.1)
        assert codes == [ResetCode.CANCEL]

    give(kind, play)


def test_what_came_before_a_reset_is_still_received(kind: str) -> None:
    async def play(stage: Stage) -> None:
        async def work(link: Link, stream: Stream, opening: Open) -> None:
            await stream.send(b"one")
            await stream.send(b"two")
            stream.reset(ResetCode.INTERNAL)

        stage.on_stream = work
        near, _ = await stage.pair()
        stream = await near.open(ASK)
        await trio.sleep(0.1)
        assert [await stream.receive(), await stream.receive()] == [b"one", b"two"]
        with pytest.raises(StreamLost) as caught:
            await stream.receive()
        assert caught.value.code is ResetCode.INTERNAL

    give(kind, play)


def test_a_server_that_just_returns_ends_the_stream(kind: str) -> None:
    async def play(stage: Stage) -> None:
        async def lazy(link: Link, stream: Stream, opening: Open) -> None:
            return

        stage.on_stream = lazy
        near, _ = await stage.pair()
        stream = await near.open(ASK)
        with pytest.raises(StreamLost):
            await stream.receive()
        assert not near.busy

    give(kind, play)


def test_streams_are_bounded_where_they_begin(kind: str) -> None:
    async def play(stage: Stage) -> None:
        async def wait(link: Link, stream: Stream, opening: Open) -> None:
            await stream.lost()

        stage.on_stream = wait
        near, _ = await stage.pair()
        for _ in range(limits.PENDING_OPENS):
            await near.open(ASK)
        with pytest.raises(Busy):
            await near.open(ASK)

    give(kind, play)


def test_tasks_that_serve_streams_are_bounded(kind: str) -> None:
    """A stream that ended on the wire may still be served: that task counts too."""

    async def play(stage: Stage) -> None:
        serving = 0

        async def linger(link: Link, stream: Stream, opening: Open) -> None:
            nonlocal serving
            serving += 1
            await stream.send(b"here")
            await trio.sleep_forever()

        stage.on_stream = linger
        near, _ = await stage.pair()
        for _ in range(limits.INBOUND_STREAMS + 20):
            stream = await near.open(ASK)
            await trio.sleep(0.03 if kind == "memory" else 0.002)
            stream.reset(ResetCode.CANCEL)
        await trio.sleep(0.1)
        assert serving == limits.INBOUND_STREAMS

    give(kind, play)


def test_a_caller_that_is_cancelled_leaves_a_whole_link(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, _ = await stage.pair()
        stream = await near.open(ASK)
        for _ in range(50):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send, bytes(30_000))
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
            with trio.move_on_after(0.05):
                await stream.receive()
        assert await near.request(m.DhtPing()) == m.DhtPong()

    give(kind, play)


# --- Loss ---


def test_closing_breaks_everything_at_both_ends_at_once(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        stream = await near.open(ASK)
        broken: list[str] = []

        async def read() -> None:
            try:
                await stream.receive()
            except StreamLost as error:
                broken.append(error.code.name)

        async def ask() -> None:
            with pytest.raises(Unreachable):
                await near.request(m.DhtFind(b"t" * 20))
            broken.append("request")

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(ask)
            await trio.sleep(0.03)
            await far.aclose(reason="enough")
        assert sorted(broken) == ["CANCEL", "request"]
        assert trio.current_time() - begun < 1
        await near.closed()
        assert not near.alive
        assert "enough" in str(near.error)
        for attempt in (near.request(m.DhtPing()), near.open(ASK), near.notify(m.GossipAck())):
            with pytest.raises(Unreachable):
                await attempt
        with pytest.raises(StreamLost):
            await stream.send(b"x")
        stream.reset(ResetCode.CANCEL)
        await near.aclose()

    give(kind, play)


def test_garbage_on_the_transport_closes_the_link_with_a_word(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        await near._transport.send(b"not sealed by anyone")
        with trio.fail_after(1):
            await far.closed()
            await near.closed()
        assert "broke the protocol" in str(far.error)
        assert "decrypt" in str(near.error)

    give(kind, play)


def test_the_round_trip_is_measured_at_once(kind: str) -> None:
    async def play(stage: Stage) -> None:
        near, far = await stage.pair()
        await until(lambda: None not in (near.rtt_ms, far.rtt_ms))
        assert all(0 < (link.rtt_ms or 0) < 200 for link in (near, far))

    give(kind, play)


# --- Who may come in ---


def test_an_end_that_is_turned_away_hears_why(kind: str) -> None:
    async def play(stage: Stage) -> None:
        def refuse(_: Introduced) -> bool:
            raise Revoked("This device was revoked yesterday.")

        stage.judge_b = refuse
        await stage.listen()
        with pytest.raises(Revoked, match="yesterday"):
            await stage.dial()
        await until(lambda: bool(stage.refused))
        assert [type(error) for error in stage.refused] == [Revoked]

    give(kind, play)


def test_a_dialler_may_turn_the_listener_away(kind: str) -> None:
    async def play(stage: Stage) -> None:
        def refuse(_: Introduced) -> bool:
            raise NotAllowed("Not you.")

        await stage.listen()
        with pytest.raises(NotAllowed):
            await stage.dial(judge=refuse)
        await trio.sleep(0.1)
        assert stage.accepted == []

    give(kind, play)


def test_a_node_that_dials_itself_is_told_so(kind: str) -> None:
    async def play(stage: Stage) -> None:
        await stage.listen()
        with pytest.raises(Unreachable, match="itself"):
            await stage.dial("b")

    give(kind, play)


def test_a_joining_link_carries_nothing_but_the_join(kind: str) -> None:
    async def play(stage: Stage) -> None:
        async def certify(link: Link, message: numbers.Message) -> numbers.Message | None:
            return m.Joined((b"cert", b"issuer"))

        stage.judge_b = lambda _: False
        stage.on_request = certify  # type: ignore[method-assign]  # the play's own behaviour
        await stage.listen()
        near = await stage.dial(judge=lambda _: False)
        assert near.joining
        with pytest.raises(LocalWireError):
            await near.open(ASK)
        join = m.Join(b"t" * 8, b"m" * 32, near.key, b"", near.key)
        assert await near.request(join) == m.Joined((b"cert", b"issuer"))
        assert not near.joining
        assert not stage.accepted[0].joining
        assert stage.accepted[0].chain == (b"cert", b"issuer")
        await near.open(ASK)

    give(kind, play)


def test_silence_instead_of_a_handshake_is_not_waited_for_ever(kind: str) -> None:
    async def play(stage: Stage) -> None:
        async def mute(transport: object) -> None:
            await trio.sleep_forever()

        await stage.listen(accept=mute)
        with pytest.raises(Unreachable, match="handshake"):
            await stage.dial()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "HANDSHAKE_S", 0.2)
        give(kind, play)


# --- Finding each other ---


def test_nothing_there(kind: str) -> None:
    async def play(stage: Stage) -> None:
        stage.address = "mem://nobody" if kind == "memory" else "ws://127.0.0.1:9"
        with pytest.raises(Unreachable, match=stage.address):
            await stage.connect()

    give(kind, play)


def test_another_mesh_and_another_version_are_told_apart(kind: str) -> None:
    async def play(stage: Stage) -> None:
        await stage.listen()
        with pytest.raises(WrongMesh):
            await stage.connect(Hello((1,), b"x" * 16))
        with pytest.raises(WrongProtocol, match="versions"):
            await stage.connect(Hello((2, 3), MESH))

    give(kind, play)


def test_who_does_not_know_the_mesh_is_told(kind: str) -> None:
    async def play(stage: Stage) -> None:
        await stage.listen(Hello((2, 1), MESH))
        transport = await stage.connect(Hello((3, 1), b""))
        assert transport.peer_hello == Hello((1,), MESH)
        await transport.aclose()

    give(kind, play)


def test_an_address_is_taken_once(kind: str) -> None:
    async def play(stage: Stage) -> None:
        address = await stage.listen()
        with pytest.raises(PortInUse):
            await stage.network("c").serve(address, HELLO, stage._accept)

    give(kind, play)


def test_a_transport_that_is_closed_says_so(kind: str) -> None:
    async def play(stage: Stage) -> None:
        await stage.listen()
        transport = await stage.connect()
        await transport.aclose()
        await transport.aclose()
        with pytest.raises(Unreachable):
            await transport.receive()
        with pytest.raises(Unreachable):
            await transport.send(b"x")
        with pytest.raises(Unreachable):
            await establish(transport, stage.config("a", initiator=True), lambda _: True)

    give(kind, play)
