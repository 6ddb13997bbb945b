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
from meshnode.serve.packing import CALLS_MAX, TURNS_MAX, pack_job, unpack_job
from meshnode.serve.remote import run_on_link
from meshnode.serve.scopes import Scopes
from meshnode.terms import (
    Bias,
    Emitted,
    End,
    FinishReason,
    Job,
    Output,
    Piece,
    Privacy,
    Sampling,
    Tool,
    ToolCall,
    Turn,
    Vector,
)
from meshnode.terms.job import BIASES_MAX, INPUTS_MAX, RESUME_MAX_TOKENS, TOOLS_MAX
from meshwire import inner, messages, numbers
from meshwire.errors import RemoteWireError
from meshwire.fields import pack_fields
from meshwire.limits import PROMPT_MAX, RESPONSE_MAX
from tests.net.hubs import open_world
from tests.routing.offers import job

# Of the class whose pieces are sent as they are made; how others go out is in `test_pacing`.
JOB = msgspec.structs.replace(job(privacy=Privacy.PUBLIC), turns=(Turn(role="user", content="hello"),))


def named(name: str) -> Job:
    return msgspec.structs.replace(JOB, id=name)


class Stage:
    """`link` leads to a node with a scripted engine."""

    def __init__(self, link: Link, engine: ScriptedEngine, admission: Admission, bench: Bench) -> None:
        self.link = link
        self.engine = engine
        self.bench = bench
        self.admission = admission

    async def run(self, job: Job = JOB) -> list[Emitted]:
        with trio.fail_after(60):
            async with run_on_link(self.link, job) as pieces:
                return [emitted async for emitted in pieces]

    async def ask_raw(self, packed: bytes) -> numbers.Message | None:
        """What comes back for a job packed by hand."""
        stream = await self.link.open(messages.Open("ask"))
        await stream.send_message(inner.Ask(packed), end=True)
        with trio.fail_after(60):
            return await stream.receive_message()

    @property
    def idle(self) -> bool:
        return not self.engine.load.in_flight and not self.admission.taken


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    engine, admission = ScriptedEngine(scripted_card(slots=1), answer_tokens=50), Admission(4)
    bench = Bench((engine,), Scopes(b"test"))
    inbound = Inbound(admission, bench, lambda _job: scripted_card(slots=1))
    async with open_world() as world, trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await nursery.start(inbound.run)
        a, b = await world.line("a", "b")
        b.on_ask = inbound.serve  # type: ignore[method-assign]
        yield Stage(a.up[0], engine, admission, bench)
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
        async with run_on_link(stage.link, named("another")):
            await trio.sleep(0.1)
            assert stage.bench.gate.load(stage.engine).in_flight == 2
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
        for number in range(4):
            nursery.start_soon(stage.run, named(f"req-{number}"))
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
        without(_13=1),
        without(_12=[-1]),
        without(_12=[2**32]),
        without(_12=[1] * (RESUME_MAX_TOKENS + 1)),
        without(_7=[{1: "a b"}]),
        without(_7=[{1: "look"}] * 129),
        without(_11="x" * 65_537),
        without(_4={12: [{1: 1, 2: -100.5}]}),
        without(_4={14: 21}),
        without(_13=["x"] * 257),
    ],
)
async def test_what_is_no_job_is_refused_and_costs_nothing_else(stage: Stage, packed: bytes) -> None:
    reply = await stage.ask_raw(packed)
    assert isinstance(reply, inner.Fail)
    assert reply.code == "invalid_request"
    assert stage.link.alive
    assert stage.idle
    assert await stage.run()


async def test_an_ask_that_does_not_come_is_given_up(stage: Stage) -> None:
    stream = await stage.link.open(messages.Open("ask"))
    with trio.fail_after(ASK_WITHIN_S + 1):
        assert isinstance(await stream.receive_message(), inner.Fail)
    stream = await stage.link.open(messages.Open("ask"))
    await stream.send_message(inner.Progress(1, 2), end=True)
    assert isinstance(await stream.receive_message(), inner.Fail)


async def test_a_defect_of_an_engine_costs_one_ask(stage: Stage) -> None:
    def broken(_job: Job, _scope: bytes) -> Any:
        raise KeyError("a defect")

    stage.engine.run = broken  # type: ignore[method-assign]
    with pytest.raises(MeshError, match="went wrong inside"):
        await stage.run()
    del stage.engine.run
    assert await stage.run()


def test_a_bomb_is_refused_before_it_is_built() -> None:
    with pytest.raises(RemoteWireError, match="too many maps"):
        unpack_job(BOMB)


async def flood_of_calls(stream: Stream) -> None:
    for index in range(RESPONSE_MAX // 20_000 + 2):
        call = inner.Call("call", "look", "x" * 20_000)
        await stream.send_message(inner.Chunk(index, (1,), calls=(call,)))


async def stray_vector(stream: Stream) -> None:
    await stream.send_message(inner.Vector(0, b"abcd"))


async def half_a_piece(stream: Stream) -> None:
    await stream.send_message(inner.Chunk(0, (1,), "a", more=True))
    await stream.send_message(inner.End("stop"), end=True)


Play = Callable[[Stream], Any]


async def skip(stream: Stream) -> None:
    await stream.send_message(inner.Chunk(0, (1,), "a"))
    await stream.send_message(inner.Chunk(2, (3,), "c"))


async def overlap(stream: Stream) -> None:
    await stream.send_message(inner.Chunk(0, (1,), "a"))
    await stream.send_message(inner.Chunk(0, (1, 2), "ab"))


async def repeat(stream: Stream) -> None:
    for index, text in ((0, "a"), (0, "a"), (1, "b"), (0, "a")):
        await stream.send_message(inner.Chunk(index, (1,), text))
    await stream.send_message(inner.End("stop"), end=True)


async def truncate(stream: Stream) -> None:
    await stream.send_message(inner.Chunk(0, (1,), "a"), end=True)


async def babble(stream: Stream) -> None:
    await stream.send_message(inner.Ask(b"what?"))


async def flood(stream: Stream) -> None:
    for index in range(RESPONSE_MAX // 20_000 + 2):
        await stream.send_message(inner.Chunk(index, (1,), "x" * 20_000))


@pytest.mark.parametrize(
    "play", [skip, overlap, truncate, babble, flood, flood_of_calls, stray_vector, half_a_piece]
)
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


async def test_tokens_that_come_twice_count_once() -> None:
    async def serve(_link: Link, stream: Stream, _opening: messages.Open) -> None:
        await stream.receive_message()
        await repeat(stream)
        await stream.lost()

    async with open_world() as world:
        a, b = await world.line("a", "b")
        b.on_ask = serve  # type: ignore[method-assign]
        async with run_on_link(a.up[0], JOB) as pieces:
            *came, end = [one async for one in pieces]
    assert [one.first_index for one in came if isinstance(one, Piece)] == [0, 1]
    assert isinstance(end, End)


async def test_an_end_for_a_reason_not_known_yet_is_an_end() -> None:
    async def serve(_link: Link, stream: Stream, _opening: messages.Open) -> None:
        await stream.send_message(inner.End("tool_calls", 1, 2), end=True)
        await stream.lost()

    async with open_world() as world:
        a, b = await world.line("a", "b")
        b.on_ask = serve  # type: ignore[method-assign]
        async with run_on_link(a.up[0], JOB) as pieces:
            (end,) = [one async for one in pieces]
    assert isinstance(end, End)


CALL = ToolCall("call_1", "look", "{}")
FULL = msgspec.structs.replace(
    JOB,
    turns=(Turn(role="assistant", content="", tool_calls=(CALL,) * TOOLS_MAX),) * (CALLS_MAX // TOOLS_MAX)
    + (Turn(role="tool", content="x", name="look", tool_call_id="call_1"),) * 4000,
    sampling=Sampling(
        logit_bias=tuple(Bias(token, -1.0) for token in range(BIASES_MAX)), logprobs=True, top_logprobs=20
    ),
    tools=tuple(Tool(f"look{number}", "looks", "{}") for number in range(TOOLS_MAX)),
    tool_choice="function:look3",
    parallel_tool_calls=False,
    output=Output.JSON_SCHEMA,
    schema="{}",
    resume=tuple(range(2**32 - RESUME_MAX_TOKENS, 2**32)),
    tenant_tag=b"t" * 64,
    trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def test_older_nodes_ignore_the_trace_and_are_sent_none_where_there_is_none() -> None:
    keys = set(msgpack.unpackb(pack_job(FULL), strict_map_key=False))
    assert keys - set(
        msgpack.unpackb(pack_job(msgspec.structs.replace(FULL, trace="")), strict_map_key=False)
    ) == {64}
    with pytest.raises(RemoteWireError):
        unpack_job(pack_job(msgspec.structs.replace(JOB, trace="x" * 56)))


@pytest.mark.parametrize(
    "packed",
    [JOB, FULL, msgspec.structs.replace(JOB, turns=(), inputs=("x" * 4000,) * INPUTS_MAX)],
    ids=["small", "full", "inputs"],
)
def test_a_job_survives_the_packing(packed: Job) -> None:
    assert unpack_job(pack_job(packed)) == packed


@pytest.mark.parametrize(
    "changes",
    [
        {"turns": (Turn(role="user", content=""),) * (TURNS_MAX + 1)},
        {"turns": (Turn(role="assistant", content="", tool_calls=(CALL,) * 128),) * 33},
        {"turns": (), "inputs": ("x" * PROMPT_MAX,)},
    ],
)
def test_a_job_of_too_many_parts_is_not_packed(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as caught:
        pack_job(msgspec.structs.replace(JOB, **changes))
    assert caught.value.param == ("input" if "inputs" in changes else "messages")


async def test_calls_likelihoods_and_the_reason_come_back(stage: Stage) -> None:
    tools = (Tool("look", "", '{"required": ["at"], "properties": {"at": {"const": "the sea"}}}'),)
    sampling = Sampling(logprobs=True, top_logprobs=2)
    calling = msgspec.structs.replace(JOB, tools=tools, tool_choice="required", sampling=sampling)
    *emitted, end = await stage.run(calling)
    pieces = [one for one in emitted if isinstance(one, Piece)]
    (call,) = [call for piece in pieces for call in piece.calls]
    assert (call.name, call.arguments) == ("look", '{"at": "the sea"}')
    assert all(len(piece.logprobs) == len(piece.ids) for piece in pieces)
    assert len(pieces[0].logprobs[0].top) == 2
    assert isinstance(end, End)
    assert end.reason is FinishReason.TOOL_CALLS


async def test_vectors_come_back_one_for_each_input(stage: Stage) -> None:
    asked = msgspec.structs.replace(JOB, turns=(), inputs=("sea", "sand", "sea"))
    *emitted, end = await stage.run(asked)
    vectors = [one for one in emitted if isinstance(one, Vector)]
    assert [vector.index for vector in vectors] == [0, 1, 2]
    assert vectors[0].values == vectors[2].values != vectors[1].values
    assert isinstance(end, End)


async def test_an_answer_is_resumed_where_it_stopped(stage: Stage) -> None:
    pieces = [one for one in await stage.run() if isinstance(one, Piece)]
    said, rest = pieces[:20], pieces[20:]
    ids = tuple(token for piece in said for token in piece.ids)
    resumed = await stage.run(msgspec.structs.replace(JOB, resume=ids))
    assert [one for one in resumed if isinstance(one, Piece)] == rest
    assert isinstance(resumed[-1], End)
    assert resumed[-1].usage.completion_tokens == 50


async def test_a_prompt_is_shared_within_an_origin_and_tenant_only(stage: Stage) -> None:
    async def cached(tag: bytes) -> int:
        *_, end = await stage.run(msgspec.structs.replace(JOB, tenant_tag=tag))
        assert isinstance(end, End)
        return end.usage.cached_tokens

    assert [await cached(tag) for tag in (b"a", b"a", b"b", b"b")] == [0, 4, 0, 4]


@pytest.mark.parametrize("indexes", [(0,), (0, 0), (1, 0), (0, 1, 2), (0, 2)])
async def test_vectors_that_are_missing_or_too_many_are_no_answer(indexes: tuple[int, ...]) -> None:
    async def serve(_link: Link, stream: Stream, _opening: messages.Open) -> None:
        await stream.receive_message()
        for index in indexes:
            await stream.send_message(inner.Vector(index, b"abcd"))
        await stream.send_message(inner.End("stop"), end=True)
        await stream.lost()

    async with open_world() as world:
        a, b = await world.line("a", "b")
        b.on_ask = serve  # type: ignore[method-assign]
        two = msgspec.structs.replace(JOB, turns=(), inputs=("x", "y"))
        with pytest.raises(Interrupted), trio.fail_after(5):
            async with run_on_link(a.up[0], two) as pieces:
                assert [one async for one in pieces]
