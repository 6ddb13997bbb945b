"""The shipped fake: deterministic, in virtual time, and as strict as the real engine."""

import math
import struct

import pytest
import trio
import trio.testing
from msgspec import structs

from meshnode.engine.base import EngineState
from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import BadRequest, Busy, ContextExceeded, EngineCrashed, EngineFailed, ModelNotFound
from meshnode.terms import End, FinishReason, Output, Piece, Progress, Sampling, Tool, Turn, Vector


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def collect(engine, job):
    async with engine.run(job) as emitted:
        return [item async for item in emitted]


def text_of(items):
    return "".join(item.text for item in items if isinstance(item, Piece))


@pytest.fixture
async def serving(until):
    """Starts engines and stops them at the end."""
    async with trio.open_nursery() as nursery:

        async def start(engine):
            await nursery.start(engine.serve)
            await until(engine, EngineState.READY)
            return engine

        yield start
        nursery.cancel_scope.cancel()


async def test_the_same_job_gives_the_same_answer_at_the_set_speed(serving, job):
    engine = await serving(ScriptedEngine(scripted_card(tps=10), answer_tokens=20))
    began = trio.current_time()
    first = await collect(engine, job("hello there", max_tokens=0))
    assert trio.current_time() - began == pytest.approx(2.0 + 6 / 100)
    assert first == await collect(engine, job("hello there", max_tokens=0))
    assert text_of(first) != text_of(await collect(engine, job("hello you", max_tokens=0)))
    assert first[0] == Progress(6, 6)
    assert first[-1].reason is FinishReason.STOP
    assert first[-1].usage.completion_tokens == 20
    ids = [token for item in first if isinstance(item, Piece) for token in item.ids]
    assert len(ids) == 20


async def test_max_tokens_cuts_the_answer(serving, job):
    engine = await serving(ScriptedEngine())
    end = (await collect(engine, job(max_tokens=5)))[-1]
    assert isinstance(end, End)
    assert (end.reason, end.usage.completion_tokens) == (FinishReason.LENGTH, 5)


async def test_a_stop_string_ends_the_answer(serving, job):
    engine = await serving(ScriptedEngine())
    whole = text_of(await collect(engine, job(max_tokens=0)))
    stop = whole.split()[4]
    items = await collect(engine, job(max_tokens=0, stop=(stop,)))
    assert text_of(items) == whole.split(stop)[0]
    assert items[-1].reason is FinishReason.STOP


async def test_a_prompt_too_long_is_refused_with_both_figures(serving, job):
    engine = await serving(ScriptedEngine(scripted_card(context=10)))
    with pytest.raises(ContextExceeded, match=r"are 17 tokens.* is 10"):
        await collect(engine, job("one two three", max_tokens=10))


async def test_an_answer_that_may_be_shorter_has_as_many_tokens_as_fit(serving, job):
    engine = await serving(ScriptedEngine(scripted_card(context=10)))
    end = (await collect(engine, job("one two three", max_tokens=10, shorten=True)))[-1]
    assert (end.reason, end.usage.prompt_tokens + end.usage.completion_tokens) == (FinishReason.LENGTH, 10)
    with pytest.raises(ContextExceeded):
        await collect(engine, job("word " * 10, max_tokens=1, shorten=True))


async def test_runs_beyond_the_slots_wait_and_beyond_the_queue_are_refused(serving, job):
    engine = await serving(ScriptedEngine(scripted_card(slots=1, tps=10), answer_tokens=10, queue=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, engine, job(name="a", max_tokens=0))
        nursery.start_soon(collect, engine, job(name="b", max_tokens=0))
        await trio.sleep(0.1)
        assert engine.load.in_flight == 2
        assert engine.load.queued_decode > 10
        with pytest.raises(Busy):
            await collect(engine, job(name="c"))
    assert sorted(engine.finished_jobs) == ["a", "b"]
    assert engine.load.in_flight == engine.load.queued_decode == 0


async def test_leaving_the_context_frees_the_slot(serving, job):
    engine = await serving(ScriptedEngine(scripted_card(slots=1), answer_tokens=1000))
    async with engine.run(job(name="left", max_tokens=0)) as emitted:
        await anext(emitted)
    assert engine.load.in_flight == 0
    assert engine.cancelled_jobs == ["left"]
    assert (await collect(engine, job(name="next")))[-1].usage.completion_tokens == 16


async def test_a_crash_ends_every_run_at_once_and_the_engine_comes_back(serving, job):
    engine = await serving(ScriptedEngine(scripted_card(slots=1, tps=0.001), load_s=3.0))
    changes = []
    engine.watch(lambda: changes.append(engine.state))
    failures = []

    async def run(name):
        try:
            await collect(engine, job(name=name))
        except EngineFailed:
            failures.append((name, trio.current_time() - crashed))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "running")
        nursery.start_soon(run, "waiting")
        await trio.sleep(1.0)
        crashed = trio.current_time()
        engine.crash()
        assert engine.cards == ()
        with pytest.raises(ModelNotFound):
            await collect(engine, job())
    assert sorted(failures) == [("running", 0.0), ("waiting", 0.0)]
    await trio.sleep(3.1)
    assert changes == [EngineState.LOADING, EngineState.READY]
    assert engine.cards


async def test_a_crash_can_be_set_for_the_middle_of_an_answer(serving, job):
    engine = await serving(ScriptedEngine())
    engine.crash_after(3)
    got = []

    async def gather():
        async with engine.run(job(max_tokens=0)) as emitted:
            async for item in emitted:
                got.append(item)  # noqa: PERF401  (it must be kept when the iteration fails)

    with pytest.raises(EngineCrashed):
        await gather()
    assert sum(isinstance(item, Piece) for item in got) == 3


async def test_a_failure_is_for_good_and_a_refusal_for_once(serving, job):
    engine = await serving(ScriptedEngine())
    engine.refuse_next(Busy("no", retry_after_s=1.0))
    with pytest.raises(Busy):
        await collect(engine, job())
    await collect(engine, job())
    engine.fail("the disk is on fire")
    await trio.sleep(1)
    assert engine.state is EngineState.FAILED
    with pytest.raises(EngineFailed, match="disk"):
        await collect(engine, job())


def calling(job, **more):
    schema = '{"required": ["at"], "properties": {"at": {"type": "string", "minLength": 2}}}'
    return structs.replace(job("look!", max_tokens=0), tools=(Tool("look", "", schema), Tool("rest")), **more)


async def test_a_tool_is_called_when_one_must_be(serving, job):
    engine = await serving(ScriptedEngine())
    for choice, made in (("required", ("look", '{"at": "xx"}')), ("function:rest", ("rest", "{}"))):
        *pieces, end = await collect(engine, calling(job, tool_choice=choice))
        (call,) = [call for piece in pieces if isinstance(piece, Piece) for call in piece.calls]
        assert (call.name, call.arguments) == made
        assert text_of(pieces) == ""
        assert end.reason is FinishReason.TOOL_CALLS
    for choice in ("auto", "none"):
        assert (await collect(engine, calling(job, tool_choice=choice)))[-1].reason is FinishReason.STOP


async def test_a_call_that_is_cut_short_is_not_made(serving, job):
    engine = await serving(ScriptedEngine())
    short = structs.replace(calling(job, tool_choice="required"), sampling=Sampling(max_tokens=2))
    *pieces, end = await collect(engine, short)
    assert end.reason is FinishReason.LENGTH
    assert not any(piece.calls for piece in pieces if isinstance(piece, Piece))


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ("", "{}"),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"enum": [3, 4]}}}', "3"),
        ('{"anyOf": [{"type": "null"}, {"type": "string"}]}', "null"),
        ('{"type": "array", "minItems": 2, "items": {"type": "boolean"}}', "[false, false]"),
        ('{"type": ["number", "null"], "exclusiveMinimum": 2}', "3"),
        ('{"type": "object", "required": ["a"]}', '{"a": {}}'),
        ('{"const": {"deep": [1]}}', '{"deep": [1]}'),
    ],
)
async def test_json_is_the_smallest_that_is_valid(serving, job, schema, text):
    engine = await serving(ScriptedEngine())
    asked = structs.replace(job(max_tokens=0), output=Output.JSON_SCHEMA, schema=schema)
    items = await collect(engine, asked)
    assert text_of(items) == text
    assert items[-1].reason is FinishReason.STOP


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "3",
        '{"type": "colour"}',
        '{"$ref": "#"}',
        '{"$ref": "http://elsewhere/schema"}',
        '{"$ref": "#/nowhere"}',
        '{"enum": []}',
        '{"type": "array", "minItems": 1000000000}',
        '{"type": "array", "minItems": 99, "items": {"type": "array", "minItems": 99}}',
        '{"type": "array", "minItems": "many"}',
    ],
)
async def test_a_schema_that_cannot_be_used_is_refused(serving, job, schema):
    engine = await serving(ScriptedEngine())
    with pytest.raises(BadRequest) as caught:
        await collect(engine, structs.replace(job(), output=Output.JSON_SCHEMA, schema=schema))
    assert caught.value.param == "response_format"


async def test_likelihoods_come_with_their_tokens_and_only_if_asked_for(serving, job):
    engine = await serving(ScriptedEngine())
    plain = await collect(engine, job(max_tokens=9))
    told = await collect(engine, job(max_tokens=9, logprobs=True, top_logprobs=4, stop=("never",)))
    pieces = [item for item in told if isinstance(item, Piece)]
    assert all(len(piece.logprobs) == len(piece.ids) for piece in pieces)
    assert all(one.logprob <= 0 for piece in pieces for one in piece.logprobs)
    assert b"".join(one.token for piece in pieces for one in piece.logprobs).decode() == text_of(plain)
    assert not any(item.logprobs for item in plain if isinstance(item, Piece))


async def test_vectors_follow_from_the_text(serving, job):
    engine = await serving(ScriptedEngine())
    texts = ("the cat sat here", "the cat sat there", "ships at sea")
    *vectors, end = await collect(engine, structs.replace(job(), turns=(), inputs=texts))
    vectors = [struct.unpack("<64f", one.values) for one in vectors if isinstance(one, Vector)]
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1, 1, 1])
    first, second, third = vectors
    assert math.dist(first, second) < math.dist(first, third)
    assert end.usage.prompt_tokens == 14
    assert end.usage.completion_tokens == 0


@pytest.mark.parametrize("said", [1, 7, 19, 20])
async def test_an_answer_goes_on_where_it_was(serving, job, said):
    engine = await serving(ScriptedEngine(answer_tokens=20))
    asked = job(max_tokens=0, stop=("never said",), logprobs=True)
    *whole, end = await collect(engine, asked)
    pieces = [item for item in whole if isinstance(item, Piece)]
    ids = tuple(token for piece in pieces for token in piece.ids)
    *resumed, last = await collect(engine, structs.replace(asked, resume=ids[:said]))
    rest = [item for item in resumed if isinstance(item, Piece)]
    assert tuple(token for piece in rest for token in piece.ids) == ids[said:]
    assert [piece.first_index for piece in rest][:1] == [said] * (said < 20)
    tokens = [one.token for piece in pieces for one in piece.logprobs]
    assert text_of(rest) == b"".join(tokens[said:]).decode()
    assert last == end


async def test_only_a_scope_shares_beginnings_of_prompts(serving, job):
    engine = await serving(ScriptedEngine())

    async def cached(text, scope):
        async with engine.run(job(text), scope) as emitted:
            return [item async for item in emitted][-1].usage.cached_tokens

    assert await cached("a b c d", b"") == await cached("a b c d", b"") == 0
    assert [await cached("a b c d", scope) for scope in (b"x", b"x", b"y", b"")] == [0, 7, 0, 0]
    assert await cached("a b x y z", b"x") == 6


def texting(job, *turns):
    return structs.replace(job, turns=tuple(Turn(role="text", content=turn) for turn in turns))


async def test_a_bare_text_goes_on_without_a_template_and_stands_alone(serving, job):
    engine = await serving(ScriptedEngine())
    items = await collect(engine, texting(job("one two three", max_tokens=4), "one two three"))
    assert items[-1].usage.prompt_tokens == 3
    assert text_of(items).startswith(" ")
    chat = await collect(engine, job("one two three", max_tokens=4))
    assert (chat[-1].usage.prompt_tokens, text_of(chat).strip()) != (3, text_of(items).strip())
    (blank,) = [item for item in await collect(engine, texting(job(), " ")) if isinstance(item, End)]
    assert blank.usage.prompt_tokens == 1
    for wrong in (
        texting(job(), ""),
        texting(job(), "a", "b"),
        structs.replace(texting(job(), "a"), tools=(Tool("t"),)),
    ):
        with pytest.raises(BadRequest):
            await collect(engine, wrong)
