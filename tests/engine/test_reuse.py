"""Prefix reuse and resume on real models: exact counts, and the same answers as without."""

import pytest

pytest.importorskip("llama_cpp", reason="this is about llama.cpp's cache")

from tests.engine.stage import RealStage

pytestmark = pytest.mark.model

LONG = "Here is a list of rooms and what is in them. " + " ".join(
    f"Room {number} has {number % 7} chairs and a table." for number in range(60)
)


@pytest.fixture(scope="module")
def stage(model_file):
    return RealStage(model_file)


@pytest.fixture(scope="module")
def sliding(second_model_file):
    """A model most of whose layers see only the last 512 tokens."""
    return RealStage(second_model_file, context=4096)


def fresh_number(stage):
    stage.last_number = getattr(stage, "last_number", 0) + 1
    return stage.last_number


def answer(stage, *texts, scope=b"a", **parts):
    """The end of a run, its text, and how many tokens were computed for it."""
    number, before = fresh_number(stage), stage.computed
    stage.ask(number, *texts, scope=scope, **parts)
    ended = stage.until_ended(number)
    return ended, stage.text(number), stage.computed - before


def test_the_second_turn_of_a_long_conversation_computes_little(stage):
    first, said, computed = answer(stage, LONG)
    assert first.cached_tokens == 0
    assert computed == first.prompt_tokens + first.completion_tokens - 1
    assert first.prompt_tokens > 900
    turns = (LONG, said, "And how many rooms are there?")
    second, text, computed = answer(stage, *turns)
    assert second.cached_tokens >= first.prompt_tokens
    assert computed == second.prompt_tokens - second.cached_tokens + second.completion_tokens - 1
    assert computed < first.prompt_tokens // 10
    assert answer(stage, *turns, scope=b"") == (
        type(second)(fresh_number(stage) - 1, second.reason, second.prompt_tokens, second.completion_tokens),
        text,
        second.prompt_tokens + second.completion_tokens - 1,
    )


def test_an_answer_resumed_at_any_token_goes_on_as_it_would_have(stage):
    number = fresh_number(stage)
    stage.ask(number, "Tell me a story.", max_tokens=24, frequency_penalty=1.0, logprobs=True)
    whole_end = stage.until_ended(number)
    whole, text = stage.ids(number), stage.text(number)
    assert len(whole) == 24
    for cut in (1, 9, 23):
        again = fresh_number(stage)
        stage.ask(again, "Tell me a story.", max_tokens=24, frequency_penalty=1.0, resume=whole[:cut])
        ended = stage.until_ended(again)
        assert whole[:cut] + stage.ids(again) == whole
        assert text.endswith(stage.text(again))
        assert ended.completion_tokens == 24
        assert ended.reason is whole_end.reason
        assert stage.written(again)[0].first_index == cut


def test_several_answers_to_one_prompt_read_it_once(stage):
    numbers = [fresh_number(stage) for _ in range(4)]
    for number in numbers:
        stage.ask(number, "List three birds. " + LONG[:600], scope=b"n", temperature=1.0, seed=number)
    ends = [stage.until_ended(number) for number in numbers]
    prompt = ends[0].prompt_tokens
    assert [end.cached_tokens for end in ends] == [0] + [prompt - 1] * 3
    held = stage.inspect(forget=True)
    assert (held.runs, held.cells, held.idle, held.occupied) == (0, 0, 0, 0)


def test_sliding_windows_are_continued_where_they_are_whole_and_only_there(sliding):
    turns = (LONG, "I see.", "How many chairs has room 12?")
    _, expected, _ = answer(sliding, *turns, scope=b"", max_tokens=6)
    first, _, _ = answer(sliding, LONG, max_tokens=4)
    second, text, _ = answer(sliding, *turns, max_tokens=6)
    assert second.cached_tokens >= first.prompt_tokens - 1
    assert text == expected
    place = next(each for each in range(sliding.model.sequences) if sliding.model.continues_at(each, 1000))
    # What llama.cpp does on its own when cells are scarce: what fell out of the window makes room for others.
    sliding.model.lose_before(place, 700)
    third, text, _ = answer(sliding, LONG, max_tokens=1)
    assert third.cached_tokens == 0
    fourth, text, _ = answer(sliding, *turns, max_tokens=6)
    assert fourth.cached_tokens
    assert text == expected
