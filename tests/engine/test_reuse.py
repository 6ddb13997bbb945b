"""Prefix reuse and resume on real models: exact counts, and the same answers as without."""

import threading

import pytest

pytest.importorskip("llama_cpp", reason="this is about llama.cpp's cache")

from llama_cpp import llama_cpp

from meshnode.engine.worker.cache import KEEP_MIN_TOKENS
from meshnode.engine.worker.frames import Cancel
from meshnode.engine.worker.llama import ABORTED
from meshnode.terms import FinishReason
from tests.engine.stage import RealStage

pytestmark = pytest.mark.model

LONG = "Here is a list of rooms and what is in them. " + " ".join(
    f"Room {number} has {number % 7} chairs and a table." for number in range(50)
)

SHORT = LONG[: len(LONG) // 2]


@pytest.fixture(scope="module")
def stage(model_file):
    return RealStage(model_file)


@pytest.fixture(scope="module")
def sliding(second_model_file):
    """A model most of whose layers see only the last 512 tokens."""
    return RealStage(second_model_file, context=4096)


def answer(stage, *texts, scope=b"a", **parts):
    """The end of a run, its number, and how many tokens were computed for it."""
    stage.last_number = getattr(stage, "last_number", 0) + 1
    before = stage.computed
    stage.ask(stage.last_number, *texts, scope=scope, **({"logprobs": True, "top_logprobs": 3} | parts))
    ended = stage.until_ended(stage.last_number)
    return ended, stage.last_number, stage.computed - before


def needed(ended):
    """Tokens that had to be computed: all new ones, but the last answer token if no other comes after it."""
    last = ended.reason is FinishReason.LENGTH
    return ended.prompt_tokens - ended.cached_tokens + ended.completion_tokens - last


def same_beginning(stage, number, other):
    """Two answers begin alike, as far as sums made in another order allow."""
    one, two = (stage.written(each)[0].logprobs[0] for each in (number, other))
    likely = {each.token: each.logprob for each in two.top}
    return abs(likely.get(one.token, -100.0) - one.logprob) < 0.5


def test_the_second_turn_of_a_conversation_computes_little(stage):
    first, number, computed = answer(stage, SHORT)
    assert first.cached_tokens == 0
    assert computed == needed(first)
    assert first.prompt_tokens > 300
    turns = (SHORT, stage.text(number), "And how many rooms are there?")
    second, number, computed = answer(stage, *turns)
    assert second.cached_tokens >= first.prompt_tokens
    assert computed == needed(second) < first.prompt_tokens // 10
    alone, another, computed = answer(stage, *turns, scope=b"")
    assert alone.cached_tokens == 0
    assert computed == needed(alone)
    assert same_beginning(stage, number, another)


def test_an_answer_resumed_at_any_token_goes_on_as_it_would_have(stage):
    settings = {"max_tokens": 24, "frequency_penalty": 1.0}
    end, number, _ = answer(stage, "Tell me a story.", **settings)
    whole = stage.ids(number)
    assert len(whole) == 24
    for cut in (1, 9, 23):
        again_end, again, _ = answer(stage, "Tell me a story.", resume=whole[:cut], **settings)
        assert whole[:cut] + stage.ids(again) == whole
        assert stage.text(number).endswith(stage.text(again))
        assert (again_end.completion_tokens, again_end.reason) == (24, end.reason)
        assert stage.written(again)[0].first_index == cut


def test_several_answers_to_one_prompt_read_it_once(stage):
    for number in range(101, 105):
        stage.ask(number, "List three birds. " + SHORT[:400], scope=b"n", temperature=1.0, seed=number)
    ends = [stage.until_ended(number) for number in range(101, 105)]
    prompt = ends[0].prompt_tokens
    first, *others = (end.cached_tokens for end in ends)
    assert first == 0
    # Nobody waits for the last few tokens of a step that ended just before them.
    assert all(prompt - 1 - KEEP_MIN_TOKENS < cached <= prompt - 1 for cached in others)
    held = stage.inspect(forget=True)
    assert (held.runs, held.cells, held.idle, held.occupied) == (0, 0, 0, 0)


def test_an_interrupted_prefill_leaves_nothing_and_disturbs_nobody(stage):
    stage.ask(201, "Tell me a story.", scope=b"i", max_tokens=3)
    expected = stage.until_ended(201)
    text = stage.text(201)
    stage.inspect(forget=True)
    stage.ask(202, SHORT, scope=b"i")
    decode, taken = stage.model.decode, []

    def interrupted(batch):
        timer = threading.Timer(0.02, lambda: stage.loop.foresee(Cancel(202)))
        timer.start()
        taken.append(decode(batch))
        timer.join()
        return taken[-1]

    stage.model.decode = interrupted
    stage.loop.turn()
    stage.model.decode = decode
    assert taken == [ABORTED]
    assert stage.inspect().cells in {0, 128}
    stage.commands.append(Cancel(202))
    stage.ask(203, "Tell me a story.", scope=b"j", max_tokens=3)
    assert stage.until_ended(203).completion_tokens == expected.completion_tokens
    assert stage.text(203) == text


def test_sliding_windows_are_continued(sliding):
    turns = (LONG, "I see.", "How many chairs has room 12?")
    _, alone, _ = answer(sliding, *turns, scope=b"", max_tokens=2)
    first, *_ = answer(sliding, LONG, max_tokens=2)
    for _ in range(2):  # once from the end of what is there, once from well before it
        second, number, computed = answer(sliding, *turns, max_tokens=2)
        assert second.cached_tokens >= first.prompt_tokens - 1
        assert computed < 64
        assert same_beginning(sliding, number, alone)
        answer(sliding, *turns, sliding.text(number), "Tell me more about it.", max_tokens=20)


def test_a_window_of_which_a_part_was_lost_is_not_continued(sliding):
    sliding.inspect(forget=True)
    first, number, _ = answer(sliding, LONG, max_tokens=2)
    (place,) = (each for each in range(sliding.model.sequences) if sliding.model.continues_at(each, 600))
    # A hole, beside which llama.cpp itself takes the cells that fell out of the window.
    llama_cpp.llama_memory_seq_rm(sliding.model._memory, place, 0, 10)
    early, *_ = answer(sliding, SHORT, max_tokens=1)
    assert early.cached_tokens == 0
    assert not sliding.model.continues_at(place, first.prompt_tokens - 1)
    later, *_ = answer(sliding, LONG, sliding.text(number), "Go on.", max_tokens=1)
    assert later.cached_tokens >= first.prompt_tokens


@pytest.mark.parametrize("name", ["stage", "sliding"])
def test_a_conversation_that_was_put_away_goes_on_as_if_it_had_not_been(name, request):
    stage = request.getfixturevalue(name)
    stage.inspect(forget=True)
    _, number, _ = answer(stage, LONG, scope=b"put away")
    turns = (LONG, stage.text(number), "And how many rooms are there?")
    answer(stage, "Who are you?", scope=b"another")
    assert stage.inspect().cells < 100  # the first one's are not in the cache
    second, number, computed = answer(stage, *turns, scope=b"put away")
    assert second.cached_tokens > second.prompt_tokens - 50
    assert computed == needed(second)
    _, another, _ = answer(stage, *turns, scope=b"")
    assert same_beginning(stage, number, another)
