"""The real worker on the real model: what only llama.cpp itself can show."""

import hashlib
import os
import signal

import psutil
import pytest
import trio

from meshnode.engine.base import EngineState
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.errors import ContextExceeded, EngineFailed
from meshnode.terms import End, FinishReason, Piece, Progress, Recheck

pytestmark = pytest.mark.model


@pytest.fixture
async def engine(model_file, until):
    """A ready engine with a small context."""
    digest = bytes.fromhex(model_file.name.removeprefix("sha256-"))
    model = ModelFile(path=str(model_file), digest=digest, name="smollm2:135m")
    async with trio.open_nursery() as nursery:
        engine = LlamaEngine(model, context=2048, thread_count=1)
        await nursery.start(engine.serve)
        await until(engine, EngineState.READY)
        yield engine
        nursery.cancel_scope.cancel()


async def collect(engine, job):
    async with engine.run(job) as emitted:
        return [item async for item in emitted]


def text_of(items):
    return "".join(item.text for item in items if isinstance(item, Piece))


async def test_it_answers_in_words_with_exact_counts_and_measured_speeds(engine, job):
    items = await collect(engine, job("Why is the sky blue?", max_tokens=30))
    assert "light" in text_of(items).lower()  # which other words depends on how this processor rounds
    end = items[-1]
    assert isinstance(end, End)
    assert isinstance(items[0], Progress)
    pieces = [item for item in items if isinstance(item, Piece)]
    ids = [token for piece in pieces for token in piece.ids]
    assert len(ids) == end.usage.completion_tokens
    begins = [sum(len(one.ids) for one in pieces[:place]) for place in range(len(pieces))]
    assert [piece.first_index for piece in pieces] == begins
    assert end.usage.prompt_tokens == items[0].total == 36
    card = engine.cards[0]
    assert (card.name, card.quant, card.tier, card.context) == ("smollm2:135m", "Q4_1", 2, 2048)
    assert card.prompt_tps > 0
    assert card.generate_tps > 0
    assert card.batch_gain >= 1


async def test_the_answer_that_it_gave_is_the_one_that_it_draws_again(engine, job):
    asked = job("Why is the sky blue?", max_tokens=30, temperature=0.9, seed=4)
    items = await collect(engine, asked)
    ids = tuple(token for item in items if isinstance(item, Piece) for token in item.ids)
    places = await engine.recheck(Recheck(asked, ids, 5, text_of(items)))
    assert len(places) == len(ids) - 5
    assert sum(place.miss > 0.2 for place in places) == 0
    other = await engine.recheck(Recheck(job("?", temperature=0.9, seed=5), ids, 5, text_of(items)))
    assert sum(place.miss > 0.2 for place in other) > 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect, engine, asked)
        assert await engine.recheck(Recheck(job("word " * 900), ids, 0)) == ()


async def test_four_at_once_all_finish_and_more_than_the_slots_too(engine, job):
    ended = {}

    async def one(number):
        ended[number] = await collect(engine, job(f"Count from {number}.", max_tokens=12, seed=1))

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(one, number)
    assert len(ended) == 12
    assert all(text_of(items) and isinstance(items[-1], End) for items in ended.values())
    assert engine.load.in_flight == 0


async def test_a_stop_string_and_a_length_end_it(engine, job):
    whole = text_of(await collect(engine, job("Tell me a story.", max_tokens=30)))
    stop = whole.split()[6]
    items = await collect(engine, job("Tell me a story.", max_tokens=30, stop=(stop,)))
    assert text_of(items) == whole[: whole.find(stop)]
    assert items[-1].reason is FinishReason.STOP
    assert (await collect(engine, job("Tell me a story.", max_tokens=3)))[-1].reason is FinishReason.LENGTH


async def test_the_same_seed_draws_the_same_answer(engine, job):
    settings = {"temperature": 1.0, "max_tokens": 12, "frequency_penalty": 0.5}
    first, again = [text_of(await collect(engine, job(seed=7, **settings))) for _ in range(2)]
    other = text_of(await collect(engine, job(seed=8, **settings)))
    assert first == again != other


async def test_a_prompt_that_does_not_fit_is_counted(engine, job):
    with pytest.raises(ContextExceeded, match=r"the prompt is \d+ tokens; the model's context is 2048"):
        await collect(engine, job("word " * 3000, max_tokens=0))
    with pytest.raises(ContextExceeded, match="4000 more"):
        await collect(engine, job("hi", max_tokens=4000))
    assert isinstance((await collect(engine, job("hi", max_tokens=2)))[-1], End)
    async with engine.run(job("hi", max_tokens=4000, shorten=True)) as emitted:
        assert await anext(emitted)  # it may be as short as the context has room for


async def test_leaving_a_long_prefill_frees_the_worker_at_once(engine, job):
    async with engine.run(job("word " * 1900, max_tokens=0)) as emitted:
        assert isinstance(await anext(emitted), Progress)
    left = trio.current_time()
    await collect(engine, job("hi", max_tokens=1))
    prefill_s = 1900 / engine.cards[0].prompt_tps
    assert trio.current_time() - left < prefill_s * 0.6


async def test_a_killed_worker_comes_back_and_answers(engine, job, until):
    async with engine.run(job(max_tokens=0)) as emitted:
        assert isinstance(await anext(emitted), Progress)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineFailed, match="crashed"):
            [item async for item in emitted]
    await until(engine, EngineState.READY)
    assert text_of(await collect(engine, job("hi", max_tokens=4)))


async def test_an_idle_worker_uses_no_cpu(engine, job):
    await collect(engine, job("hi", max_tokens=2))
    worker = psutil.Process(engine.pid)
    await trio.sleep(0.1)
    before = sum(worker.cpu_times()[:2])
    await trio.sleep(1.0)
    assert sum(worker.cpu_times()[:2]) - before <= 0.02


async def test_a_file_that_is_no_model_fails_for_good(tmp_path, model_file, until):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model_file.read_bytes()[:1_000_000])
    model = ModelFile(path=str(broken), digest=hashlib.sha256(b"").digest())
    async with trio.open_nursery() as nursery:
        engine = LlamaEngine(model, thread_count=1)
        await nursery.start(engine.serve)
        await until(engine, EngineState.FAILED)
        assert "cannot load" in engine.detail
        nursery.cancel_scope.cancel()
