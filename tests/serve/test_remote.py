"""A job over a real link and back: pieces, errors, deadlines, cancel, and peers that send nonsense."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgpack
import msgspec
import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import (
    BadRequest,
    Busy,
    DeadlineExceeded,
    EngineFailed,
    Interrupted,
    MeshError,
    NotAllowed,
    Unreachable,
)
from meshnode.net.link import Link, Stream
from meshnode.serve.admit import Admission
from meshnode.serve.inbound import ASK_WITHIN_S, Inbound
from meshnode.serve.local import Bench
from meshnode.serve.packing import pack_job, unpack_job
from meshnode.serve.remote import run_on_link
from meshnode.terms import Emitted, End, Job, Piece, Privacy, Turn
from meshwire import messages
from meshwire.errors import RemoteWireError
from meshwire.fields import pack_fields
from meshwire.limits import PROMPT_MAX, RESPONSE_MAX
from tests.net.hubs import open_world
from tests.routing.offers import job

JOB = msgspec.structs.replace(job(), turns=(Turn(role="user", content="hello"),))


class Stage:
    """`link` leads to a node with a scripted engine."""

    def __init__(self, link: Link, engine: ScriptedEngine, admission: Admission) -> None:
        self.link = link
        self.engine = engine
        self.admission = admission

    async def run(self, job: Job = JOB) -> list[Emitted]:
        with trio.fail_after(60):
            async with run_on_link(self.link, job) as pieces:
                return [emitted async for emitted in pieces]

    async def ask_raw(self, packed: bytes) -> messages.Message | None:
        """What comes back for a job packed by hand."""
        stream = await self.link.open(messages.Open("ask"))
        await stream.send_message(messages.Ask(packed), end=True)
        with trio.fail_after(60):
            return await stream.receive_message()

    @property
    def idle(self) -> bool:
        return not self.engine.load.in_flight and not self.admission.taken


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    engine, admission = ScriptedEngine(scripted_card(slots=1), answer_tokens=50), Admission(4)
    bench = Bench((engine,))
    inbound = Inbound(admission, bench, lambda _job: scripted_card(slots=1))
    async with open_world() as world, trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        a, b = await world.line("a", "b")
        b.on_ask = inbound.serve  # type: ignore[method-assign]
        yield Stage(a.up[0], engine, admission)
        nursery.cancel_scope.cancel()


async def test_pieces_come_back_in_order_and_the_place_is_free_again(stage: Stage) -> None:
    emitted = await stage.run()
    pieces = [one for one in emitted if isinstance(one, Piece)]
    assert [piece.first_index for piece in pieces] == [*range(50)]
    assert isinstance(emitted[-1], End)
    assert emitted[-1].usage.completion_tokens == 50
    await trio.sleep(0.1)
    assert stage.idle
    assert not stage.link.busy


async def test_leaving_cancels_at_the_other_end(stage: Stage) -> None:
    async with run_on_link(stage.link, JOB) as pieces:
        await anext(pieces)
        assert stage.engine.load.in_flight == 1
    await trio.sleep(0.1)
    assert stage.idle
    assert stage.engine.cancelled_jobs == [JOB.id]


async def test_leaving_while_waiting_for_a_slot_gives_the_place_back(stage: Stage) -> None:
    long = msgspec.structs.replace(JOB, turns=(Turn(role="user", content="word " * 1500),))
    async with run_on_link(stage.link, long):
        await trio.sleep(0.1)
        async with run_on_link(stage.link, JOB):
            await trio.sleep(0.1)
            assert stage.engine.load.in_flight == 2
        await trio.sleep(0.1)
        assert stage.engine.load.in_flight == stage.admission.taken == 1


async def test_a_lost_link_frees_the_worker_and_is_told_of(stage: Stage) -> None:
    async with run_on_link(stage.link, JOB) as pieces:
        await anext(pieces)
        await stage.link.aclose()
        with pytest.raises(Unreachable):
            await anext(pieces)
    await trio.sleep(0.1)
    assert stage.idle
    with pytest.raises(Unreachable):
        await stage.run()


async def test_errors_keep_their_type_and_their_advice(stage: Stage) -> None:
    stage.engine.refuse_next(Busy("full", hint="later", retry_after_s=7.0))
    with pytest.raises(Busy) as caught:
        await stage.run()
    assert (caught.value.message, caught.value.hint, caught.value.retry_after_s) == ("full", "later", 7.0)
    stage.engine.crash_after(3)
    with pytest.raises(EngineFailed):
        await stage.run()


async def test_the_deadline_holds_at_the_other_end_too(stage: Stage) -> None:
    with pytest.raises(DeadlineExceeded):
        await stage.run(msgspec.structs.replace(JOB, deadline_ms=100))
    await trio.sleep(0.1)
    assert stage.idle


async def test_as_many_asks_as_there_are_places(stage: Stage) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(stage.run)
        await trio.sleep(0.1)
        with pytest.raises(Busy):
            await stage.run()
    assert await stage.run()


async def test_a_local_job_is_not_served(stage: Stage) -> None:
    wish = msgspec.structs.replace(JOB.wish, privacy=Privacy.LOCAL)
    with pytest.raises(NotAllowed):
        await stage.run(msgspec.structs.replace(JOB, wish=wish))
    assert stage.engine.finished_jobs == []


async def test_a_job_that_is_too_large_is_not_sent(stage: Stage) -> None:
    turns = (Turn(role="user", content="x" * PROMPT_MAX),)
    with pytest.raises(BadRequest):
        await stage.run(msgspec.structs.replace(JOB, turns=turns))
    with pytest.raises(BadRequest):
        await stage.run(msgspec.structs.replace(JOB, turns=(Turn(role="user", content=""),) * 5000))


def without(**changes: Any) -> bytes:
    fields = pack_fields(JOB)
    for key, value in changes.items():
        fields[int(key[1:])] = value
    return bytes(msgpack.packb(fields))


BOMB = b"\x81\x03" + b"\xdc\x01\x00" + (b"\xdc\x0f\xff" + b"\x80" * 4095) * 255 + b"\x80"


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\x81\x90\x01",  # a list for a key
        b"\x81\x80\x01",  # a map for a key
        b"\x91" * 2000 + b"\x00",
        BOMB,
        msgpack.packb({1: "x"}),
        msgpack.packb([1, 2]),
        without(_5=-1),  # the deadline
        without(_5=2**40),
        without(_4={6: -1}),  # max_tokens
        without(_4={1: float("nan")}),
        without(_4={7: [""]}),  # an empty stop string
        without(_9=1),
    ],
)
async def test_what_is_no_job_is_refused_and_costs_nothing_else(stage: Stage, packed: bytes) -> None:
    reply = await stage.ask_raw(packed)
    assert isinstance(reply, messages.Fail)
    assert reply.code == "invalid_request"
    assert stage.link.alive
    assert stage.idle
    assert await stage.run()


async def test_an_ask_that_does_not_come_is_given_up(stage: Stage) -> None:
    stream = await stage.link.open(messages.Open("ask"))
    with trio.fail_after(ASK_WITHIN_S + 1):
        assert isinstance(await stream.receive_message(), messages.Fail)
    stream = await stage.link.open(messages.Open("ask"))
    await stream.send_message(messages.Progress(1, 2), end=True)
    assert isinstance(await stream.receive_message(), messages.Fail)


async def test_a_defect_of_an_engine_costs_one_ask(stage: Stage) -> None:
    def broken(_job: Job) -> Any:
        raise KeyError("a defect")

    stage.engine.run = broken  # type: ignore[method-assign]
    with pytest.raises(MeshError, match="went wrong inside"):
        await stage.run()
    del stage.engine.run
    assert await stage.run()


def test_a_bomb_is_refused_before_it_is_built() -> None:
    with pytest.raises(RemoteWireError, match="too many maps"):
        unpack_job(BOMB)


Play = Callable[[Stream], Any]


async def skip(stream: Stream) -> None:
    await stream.send_message(messages.Chunk(0, (1,), "a"))
    await stream.send_message(messages.Chunk(2, (3,), "c"))


async def repeat(stream: Stream) -> None:
    await stream.send_message(messages.Chunk(0, (1,), "a"))
    await stream.send_message(messages.Chunk(0, (1,), "a"))


async def truncate(stream: Stream) -> None:
    await stream.send_message(messages.Chunk(0, (1,), "a"), end=True)


async def babble(stream: Stream) -> None:
    await stream.send_message(messages.Ask(b"what?"))


async def flood(stream: Stream) -> None:
    for index in range(RESPONSE_MAX // 20_000 + 2):
        await stream.send_message(messages.Chunk(index, (1,), "x" * 20_000))


@pytest.mark.parametrize("play", [skip, repeat, truncate, babble, flood])
async def test_an_answer_that_makes_no_sense_is_interrupted(play: Play) -> None:
    async def serve(_link: Link, stream: Stream, _opening: messages.Open) -> None:
        await stream.receive_message()
        await play(stream)
        await stream.lost()

    async with open_world() as world:
        a, b = await world.line("a", "b")
        b.on_ask = serve  # type: ignore[method-assign]
        with pytest.raises(Interrupted), trio.fail_after(5):
            async with run_on_link(a.up[0], JOB) as pieces:
                assert [one async for one in pieces]
        assert a.up[0].alive


async def test_an_end_for_a_reason_not_known_yet_is_an_end() -> None:
    async def serve(_link: Link, stream: Stream, _opening: messages.Open) -> None:
        await stream.send_message(messages.End("tool_calls", 1, 2), end=True)
        await stream.lost()

    async with open_world() as world:
        a, b = await world.line("a", "b")
        b.on_ask = serve  # type: ignore[method-assign]
        async with run_on_link(a.up[0], JOB) as pieces:
            (end,) = [one async for one in pieces]
    assert isinstance(end, End)


def test_a_job_survives_the_packing() -> None:
    assert unpack_job(pack_job(JOB)) == JOB
