"""A context of which each slot has its own part: the same answers, the same reuse, and no holes between runs."""

import pytest
import trio

pytest.importorskip("llama_cpp", reason="this is about llama.cpp's cache")

from meshnode.engine.base import EngineState
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.engine.worker.frames import Cancel, Prefilled
from tests.engine.stage import RealStage

pytestmark = pytest.mark.model

SYSTEM = " ".join(f"Room {number} has {number % 7} chairs." for number in range(30))
LIKELY = {"logprobs": True, "top_logprobs": 3}


@pytest.fixture(scope="module")
def stage(model_file):
    return RealStage(model_file, slots=4, context=2048, divided=True)


@pytest.fixture(scope="module")
def sharing(model_file):
    return RealStage(model_file, slots=4, context=2048)


@pytest.fixture(autouse=True)
def _nothing_left(stage):
    yield
    held = stage.inspect(forget=True)
    assert (held.runs, held.cells, held.idle, held.occupied) == (0, 0, 0, 0)


def likeliest(stage, number):
    """The three likeliest first tokens of an answer."""
    return {each.token: each.logprob for each in stage.written(number)[0].logprobs[0].top}


def alike(one, other):
    """As far as sums made in another order allow."""
    return any(abs(one[token] - other.get(token, -100.0)) < 0.5 for token in one)


def places(stage):
    return sorted(sequence.place for sequence in stage.loop._active)


def test_each_slot_has_its_part_and_a_prompt_that_is_longer_is_refused(stage):
    assert (stage.model.context, stage.model.cells) == (512, 2048)
    stage.ask(1, SYSTEM * 4)
    assert stage.until_ended(1).code == "context_length_exceeded"


def test_the_next_turn_and_a_common_beginning_are_reused(stage, sharing):
    for each in (stage, sharing):
        each.ask(11, SYSTEM, scope=b"a", **LIKELY)
        first = each.until_ended(11)
        each.ask(12, SYSTEM, each.text(11), "How many chairs?", scope=b"a", **LIKELY)
        each.ask(13, SYSTEM + " And?", scope=b"a", **LIKELY)
        second, third = each.until_ended(12), each.until_ended(13)
        assert first.cached_tokens == 0
        assert second.cached_tokens >= first.prompt_tokens
        assert third.cached_tokens > first.prompt_tokens - 15
    assert all(alike(likeliest(stage, number), likeliest(sharing, number)) for number in (11, 12, 13))


def test_nothing_is_found_across_scopes(stage):
    stage.ask(21, SYSTEM, scope=b"a")
    stage.until_ended(21)
    for number, scope in ((22, b"b"), (23, b"")):
        stage.ask(number, SYSTEM, scope=scope)
        assert stage.until_ended(number).cached_tokens == 0


def test_prompts_of_runs_that_wait_are_read_one_by_one(stage):
    for number, prompt in enumerate(("Tell me of mills.", "And now of ships, please.", "Of an inn?"), 51):
        stage.ask(number, prompt)
    stage.loop.turn()
    assert {event.number for event in stage.events if isinstance(event, Prefilled)} & {51, 52, 53} == {51}
    stage.until_ended(51, 52, 53)


@pytest.mark.parametrize(("first", "scope"), [(31, b"a"), (41, b"")])
def test_who_stays_closes_the_holes_of_those_who_left_and_goes_on_as_before(stage, first, scope):
    last = first + 4
    settings = {"scope": scope, "max_tokens": 40, "temperature": 0.0}
    prompts = [f"Tell me a story about {thing}." for thing in ("a mill", "a ship", "an inn", "a mine")]
    stage.ask(first, prompts[3], **settings)
    stage.until_ended(first)
    alone = stage.ids(first)
    stage.inspect(forget=True)
    for number, prompt in enumerate(prompts, first + 1):
        stage.ask(number, prompt, **settings)
    while len(stage.ids(last)) < 5:
        stage.loop.turn()
    assert places(stage) == [0, 1, 2, 3]
    stage.commands += [Cancel(first + 1), Cancel(first + 2)]
    for _ in range(3):  # those who left are put away, and their places are taken
        stage.loop.turn()
    assert places(stage) == [0, 1]
    stage.until_ended(last)
    stage.until_ended(last - 1)
    assert len(stage.ids(last)) == len(alone) == 40
    assert stage.ids(last)[:10] == alone[:10]


async def test_an_engine_gives_each_slot_what_it_is_told(model_file, until):
    model = ModelFile(path=str(model_file), digest=bytes.fromhex(model_file.name.removeprefix("sha256-")))
    engine = LlamaEngine(model, slots=2, context=4096, slot_context=768, thread_count=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await until(engine, EngineState.READY)
        assert (engine.cards[0].context, engine.cards[0].slots) == (768, 2)
        nursery.cancel_scope.cancel()
