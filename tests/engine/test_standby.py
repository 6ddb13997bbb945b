"""Several models in too little memory: they come when they are asked for and go when they idle."""

import os
import signal

import pytest
import trio

from meshnode.engine import process as process_module
from meshnode.engine.base import EngineState
from meshnode.engine.budget import MemoryBudget
from meshnode.engine.footprint import Shape, footprint_bytes
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.errors import Busy, EngineCrashed, EngineFailed
from meshnode.terms import End, Piece, Progress

SHAPE = Shape(weights_bytes=100 << 20, kv_elements=0, vocabulary=0)
ONE = footprint_bytes(SHAPE, context=8192, slots=2)

# Answers at once, but goes on for ever when it is asked for more than 100 tokens.
WORKER = """
if isinstance(command, Open):
    say(Loading(0.5), READY)
if isinstance(command, Run):
    say(Started(command.number, 3), Written(command.number, 0, (1,), "hi"))
    if command.job.sampling.max_tokens < 100:
        say(Ended(command.number, FinishReason.STOP, 3, 1))
"""
DIES_ON_ITS_THIRD_START = """
if isinstance(command, Open):
    if life == 3:
        os.kill(os.getpid(), 9)
    say(READY)
if isinstance(command, Run):
    say(Written(command.number, 0, (1,), "hi"), Ended(command.number, FinishReason.STOP, 3, 1))
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(process_module, "LIFE_SIGN_S", 0.02)


@pytest.fixture
async def engines(until, stand_in):
    """Starts engines that share a budget, one after the other; everything is stopped at the end."""
    async with trio.open_nursery() as nursery:

        async def start(*names, room=ONE, worker=WORKER, shape=SHAPE):
            budget, command = MemoryBudget(room), stand_in(worker)
            started = []
            for name in names:
                file = ModelFile(path=f"/nowhere/{name}", digest=name.encode() * 32, name=name, shape=shape)
                engine = LlamaEngine(file, command=command, slots=2, budget=budget)
                await nursery.start(engine.serve)
                await until(engine, EngineState.READY)
                started.append(engine)
            return started

        yield start
        nursery.cancel_scope.cancel()


async def collect(engine, job):
    async with engine.run(job) as emitted:
        return [item async for item in emitted]


async def test_both_stay_where_there_is_room_for_both(engines, job):
    first, second = await engines("a:1", "b:1", room=2 * ONE)
    assert (first.state, second.state) == (EngineState.READY, EngineState.READY)


async def test_the_idle_one_makes_room_keeps_its_card_and_comes_back(engines, job, until):
    first, second = await engines("a:1", "b:1")
    assert (first.state, first.detail) == (EngineState.STANDBY, "unloaded to make room")
    assert [card.name for card in first.cards] == ["a:1"]
    assert first.pid is None
    states = []
    first.watch(lambda: states.append((first.state, bool(first.cards))))
    emitted = await collect(first, job())
    assert isinstance(emitted[-1], End)
    assert Piece(0, (1,), "hi") in emitted
    assert (EngineState.LOADING, True) in states
    assert second.state is EngineState.STANDBY
    assert isinstance((await collect(second, job()))[-1], End)


async def test_one_that_answers_is_not_displaced_and_the_other_is_told_so(engines, job, monkeypatch):
    monkeypatch.setattr(process_module, "ROOM_WAIT_S", 0.3)
    first, second = await engines("a:1", "b:1")
    async with second.run(job(max_tokens=100)) as answering:
        assert await anext(answering) == Piece(0, (1,), "hi")
        signs = []
        with pytest.raises(Busy, match="all at work"), trio.fail_after(5):
            async with first.run(job()) as waiting:
                while True:
                    signs.append(await anext(waiting))
        assert signs
        assert all(isinstance(sign, Progress) for sign in signs)
        assert second.state is EngineState.READY
        assert second.load.in_flight == 1
    with trio.fail_after(5):
        while first.state is not EngineState.STANDBY:
            await trio.sleep(0.01)
        assert isinstance((await collect(first, job()))[-1], End)


async def test_who_waits_is_served_as_soon_as_the_other_is_done(engines, job):
    first, second = await engines("a:1", "b:1")
    async with trio.open_nursery() as nursery:
        done = trio.Event()

        async def ask():
            assert isinstance((await collect(first, job()))[-1], End)
            done.set()

        async with second.run(job(max_tokens=100)) as answering:
            await anext(answering)
            nursery.start_soon(ask)
            await trio.sleep(0.1)
            assert not done.is_set()
        with trio.fail_after(5):
            await done.wait()


async def test_who_leaves_while_waiting_has_changed_nothing(engines, job):
    first, second = await engines("a:1", "b:1")
    async with second.run(job(max_tokens=100)) as answering:
        await anext(answering)
        async with first.run(job()) as waiting:
            assert isinstance(await anext(waiting), Progress)
        with trio.fail_after(2):
            while first.state is not EngineState.STANDBY:
                await trio.sleep(0.01)
    await trio.sleep(0.1)
    assert (first.state, second.state) == (EngineState.STANDBY, EngineState.READY)
    assert first.load.in_flight == 0


async def test_a_crash_on_the_way_back_ends_the_run_with_one_resumable_error(engines, job, until):
    first, _ = await engines("a:1", "b:1", worker=DIES_ON_ITS_THIRD_START)
    with pytest.raises(EngineCrashed), trio.fail_after(5):
        await collect(first, job())
    await until(first, EngineState.READY)
    assert isinstance((await collect(first, job()))[-1], End)


async def test_a_crash_takes_the_card_away_so_that_others_are_asked(engines):
    (engine,) = await engines("a:1")
    changed = trio.Event()
    engine.watch(changed.set)
    os.kill(engine.pid, signal.SIGKILL)
    await changed.wait()
    assert (engine.state, engine.cards) == (EngineState.LOADING, ())


async def test_a_model_that_can_never_fit_says_what_to_do(stand_in, until, job):
    huge = ModelFile(path="/nowhere/x", digest=b"x" * 32, shape=Shape(1 << 40, 0, 0))
    engine = LlamaEngine(huge, command=stand_in(WORKER), budget=MemoryBudget(1 << 30))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await until(engine, EngineState.FAILED)
        assert "memory_mb" in engine.detail
        with pytest.raises(EngineFailed, match="memory"):
            await collect(engine, job())
        nursery.cancel_scope.cancel()


async def test_the_context_is_what_fits_into_the_budget(stand_in, until):
    body = 'say(Broken(f"context {command.context}"))'
    shape = Shape(weights_bytes=1 << 20, kv_elements=1 << 14, vocabulary=0, trained_context=1 << 15)
    engine = LlamaEngine(
        ModelFile(path="/nowhere/x", digest=b"x" * 32, shape=shape),
        command=stand_in(body),
        budget=MemoryBudget(footprint_bytes(shape, context=2048, slots=8)),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await until(engine, EngineState.FAILED)
        nursery.cancel_scope.cancel()
    assert engine.detail == "context 2048"
