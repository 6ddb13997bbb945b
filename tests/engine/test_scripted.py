"""The shipped fake: deterministic, in virtual time, and as strict as the real engine."""

import pytest
import trio
import trio.testing

from meshnode.engine.base import EngineState
from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import Busy, ContextExceeded, EngineFailed, ModelNotFound
from meshnode.terms import End, FinishReason, Piece, Progress


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

    with pytest.raises(EngineFailed):
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
