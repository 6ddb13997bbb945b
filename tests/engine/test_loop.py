"""The batched loop over a model of numbers: fairness, cells, cancels, with no llama.cpp in it."""

import pytest

pytest.importorskip("llama_cpp", reason="the loop's module needs llama-cpp-python")

from meshnode.engine.worker import measure as measure_module
from meshnode.engine.worker import sequence as sequence_module
from meshnode.engine.worker.frames import (
    Alive,
    Cancel,
    Embedded,
    Ended,
    Measured,
    Prefilled,
    Refused,
    Started,
    Threads,
)
from meshnode.engine.worker.llama import CHUNK_TOKENS
from meshnode.engine.worker.loop import DecodeError
from meshnode.engine.worker.measure import Speed
from meshnode.errors import ContextExceeded, EngineFailed
from meshnode.terms import FinishReason
from tests.engine.fake_model import FakeModel, FakeSampler, FakeTemplate
from tests.engine.stage import SPEED
from tests.engine.stage import Stage as AnyStage


class Stage(AnyStage):
    def __init__(self, *, clock=lambda: 0.0, embedder=None, speed=SPEED, hold_s=0.0, **model):
        parts = {"clock": clock, "embedder": embedder, "speed": speed, "hold_s": hold_s}
        super().__init__(FakeModel(**model), FakeTemplate(), **parts)

    def run(self, number, prompt=5, **parts):
        self.ask(number, " ".join(["7"] * prompt), **parts)

    def all_ended(self, count):
        return self.until_ended(*range(1, count + 1))


def counting(tokens, first=1):
    return "".join(f"{100 + place} " for place in range(first, tokens + 1))


@pytest.fixture(autouse=True)
def _fake_sampler(monkeypatch):
    FakeSampler.live = 0
    monkeypatch.setattr(sequence_module, "Sampler", FakeSampler)
    monkeypatch.setattr(measure_module, "LONG_TOKENS", CHUNK_TOKENS)  # the clock stands still


def test_more_runs_than_slots_all_finish_and_nothing_is_left():
    stage = Stage(slots=2)
    for number in range(1, 6):
        stage.run(number, max_tokens=10)
    stage.all_ended(5)
    assert [stage.text(number) for number in range(1, 6)] == [counting(10)] * 5
    assert FakeSampler.live == 0
    assert stage.model.used == 0


def test_a_long_prompt_is_read_in_chunks_while_others_go_on():
    stage = Stage()
    stage.run(1, max_tokens=50)
    stage.loop.turn()
    stage.run(2, prompt=400, max_tokens=1)
    stage.until_ended(2)
    steps = [event for event in stage.events if isinstance(event, Prefilled) and event.number == 2]
    assert [step.done for step in steps] == [128, 256, 384, 400]
    between = stage.events[stage.events.index(steps[0]) : stage.events.index(steps[-1])]
    assert sum(event in between for event in stage.written(1)) == 3
    assert max(stage.model.sizes) <= CHUNK_TOKENS + stage.model.slots


@pytest.mark.parametrize(("prompt_tps", "size"), [(50.0, 128), (300.0, 300), (9000.0, 512)])
def test_prompts_that_no_answer_waits_for_are_read_a_second_at_a_time(monkeypatch, prompt_tps, size):
    monkeypatch.setattr(measure_module, "LONG_TOKENS", 512)
    stage = Stage(speed=Speed(prompt_tps, 100.0, 2.0), cells=5000)
    stage.run(1, prompt=900, max_tokens=3)
    stage.loop.turn()
    assert stage.model.sizes == [size]


def first_written(stage):
    """The runs in the order of their first tokens."""
    return list(dict.fromkeys(event.number for event in stage.events if hasattr(event, "first_index")))


def test_a_short_prompt_does_not_wait_for_a_long_one_that_came_before():
    stage = Stage()
    stage.run(1, prompt=900, max_tokens=1)
    stage.loop.turn()
    stage.run(2, prompt=60, max_tokens=1)
    stage.loop.turn()
    assert first_written(stage) == [2]
    stage.all_ended(2)


def test_prompts_of_equal_length_are_read_one_after_the_other():
    stage = Stage(slots=8, cells=5000)
    for number in range(1, 6):
        stage.run(number, prompt=192, max_tokens=1)
    stage.all_ended(5)
    assert first_written(stage) == [1, 2, 3, 4, 5]
    assert len(stage.model.sizes) == 8


def test_a_long_prompt_has_half_of_every_step_whoever_comes():
    stage = Stage(slots=8, cells=5000)
    stage.run(1, prompt=640, max_tokens=1)
    for number in range(2, 30):
        stage.run(number, prompt=64, max_tokens=1)
    stage.until_ended(1)
    assert len(stage.model.sizes) == 10
    assert sorted(first_written(stage)) == list(range(1, 12))


def test_answers_that_outgrow_the_cells_are_moved_out_and_still_whole(monkeypatch):
    monkeypatch.setattr(sequence_module, "EXPECTED_ANSWER_TOKENS", 5)
    stage = Stage(cells=64, context=64)
    for number in range(1, 5):
        stage.run(number, prompt=5, max_tokens=40)
    stage.all_ended(4)
    assert all(stage.text(number) == counting(40) for number in range(1, 5))
    assert [e.number for e in stage.events if isinstance(e, Started)] == [1, 2, 3, 4]


def test_admission_is_by_cells():
    stage = Stage(cells=64, context=64)
    stage.run(1, prompt=30, max_tokens=10)
    stage.run(2, prompt=30, max_tokens=10)
    stage.loop.turn()
    assert stage.model.occupied() == 1
    stage.all_ended(2)


def test_a_prompt_that_does_not_fit_is_refused_with_counted_and_limit():
    stage = Stage(context=100)
    stage.run(1, prompt=90, max_tokens=20)
    stage.run(2, prompt=100, max_tokens=0)
    stage.run(3, prompt=0)
    stage.all_ended(3)
    codes = [event.code for event in stage.events if isinstance(event, Refused)]
    assert codes == ["context_length_exceeded", "context_length_exceeded", "invalid_request"]
    assert "90 tokens and 20 more" in stage.events[0].message
    assert "100 tokens" in stage.events[0].message


def test_without_max_tokens_the_context_is_the_limit():
    stage = Stage(context=30)
    stage.run(1, prompt=10)
    assert stage.until_ended(1) == Ended(1, FinishReason.LENGTH, 10, 20)


def test_the_models_own_end_is_a_stop_and_is_not_counted():
    stage = Stage()
    stage.model.ends_at = 104
    stage.run(1)
    assert stage.until_ended(1) == Ended(1, FinishReason.STOP, 5, 3)
    assert stage.text(1) == counting(3)


def test_a_stop_string_ends_a_run():
    stage = Stage()
    stage.run(1, stop=("3 10",))
    assert stage.until_ended(1).reason is FinishReason.STOP
    assert stage.text(1) == "101 102 10"


def holding_stage():
    """One run has begun to answer, and what it writes next is held while the clock stands still."""
    stage = Stage(hold_s=1.0)
    stage.run(1, max_tokens=100)
    for _ in range(4):
        stage.loop.turn()
    assert stage.ids(1) == (101,), "only the first token leaves at once"
    return stage


def test_a_held_token_does_not_wait_for_a_prompt_to_be_read():
    stage = holding_stage()
    stage.model.on_decode = lambda: seen.append(stage.ids(1))
    seen = []
    stage.run(2, prompt=100, max_tokens=1)
    stage.loop.turn()
    assert len(seen[0]) > 1


def test_what_is_held_for_a_run_that_is_cancelled_leaves_before_the_loop_sleeps():
    stage = holding_stage()
    stage.commands.append(Cancel(1))
    stage.loop.turn()
    seen = []
    stage.loop._commands = lambda wait: seen.append((wait, stage.ids(1))) or ()
    stage.loop.turn()
    assert seen[0][0]
    assert len(seen[0][1]) > 1


def test_held_tokens_leave_when_the_answer_ends():
    stage = holding_stage()
    stage.until_ended(1)
    assert stage.text(1) == counting(100)
    assert len(stage.written(1)) == 2


def test_a_cancel_frees_the_slot_at_the_next_step_even_in_a_long_prompt():
    stage = Stage(slots=1)
    stage.run(1, prompt=900)
    stage.run(2, prompt=5, max_tokens=1)
    stage.loop.turn()
    stage.commands.append(Cancel(1))
    stage.until_ended(2)
    assert not any(isinstance(event, Ended) and event.number == 1 for event in stage.events)
    assert stage.text(2) == counting(1)
    stage.run(3, prompt=5)
    stage.commands.append(Cancel(3))
    stage.run(4, prompt=5, max_tokens=1)
    stage.until_ended(4)
    assert FakeSampler.live == 0
    assert stage.model.used == 0


def test_every_step_gives_a_sign_of_life():
    stage = Stage()
    stage.run(1, stop=("101 102 103 104 105 x",), max_tokens=6)
    stage.loop.turn()
    before = len(stage.events)
    stage.loop.turn()
    assert stage.events[before:] == [Alive()]


def test_when_llama_cpp_breaks_the_process_must_go():
    stage = Stage()
    stage.run(1)
    stage.model.statuses = [-3]
    with pytest.raises(DecodeError):
        stage.loop.turn()


def test_the_thread_count_can_be_changed():
    stage = Stage()
    stage.commands.append(Threads(3))
    stage.loop.turn()
    assert stage.model.threads == 3


def test_a_draw_that_fails_ends_its_run_alone(monkeypatch):
    def fail(sampler, row):
        raise EngineFailed("the grammar allows nothing")

    stage = Stage()
    stage.run(1, max_tokens=3)
    stage.loop.turn()
    monkeypatch.setattr(FakeSampler, "draw", fail)
    assert stage.until_ended(1).code == "engine_failed"
    monkeypatch.undo()
    assert stage.inspect().runs == 0


def cancel_during_decode(stage, number):
    def come():
        stage.loop.foresee(Cancel(number))
        stage.commands.append(Cancel(number))
        stage.model.on_decode = lambda: None

    stage.model.on_decode = come


@pytest.mark.parametrize("whole_only", [False, True])
def test_a_step_for_a_run_that_is_cancelled_is_interrupted_and_leaves_nothing(whole_only):
    stage = Stage()
    stage.model.whole_only = whole_only
    stage.run(1, prompt=5, max_tokens=9)
    stage.loop.turn()
    stage.run(2, prompt=600)
    cancel_during_decode(stage, 2)
    stage.loop.turn()
    assert stage.model.occupied() == (0 if whole_only else 1)
    stage.until_ended(1)
    assert stage.text(1) == counting(9)
    assert stage.model.used == 0


def test_a_step_for_others_is_not_interrupted():
    stage = Stage()
    stage.run(1, prompt=600, max_tokens=1)
    stage.run(2, prompt=20, max_tokens=1)
    stage.loop.turn()
    cancel_during_decode(stage, 2)
    stage.loop.turn()
    assert stage.model.statuses == []
    assert len(stage.model.sizes) == 2
    stage.until_ended(1)


def test_a_resumed_answer_goes_on_with_the_next_index_and_counts_all_its_tokens():
    stage = Stage()
    stage.run(1, resume=(101, 102, 103), max_tokens=6)
    assert stage.until_ended(1) == Ended(1, FinishReason.LENGTH, 5, 6)
    assert [event.first_index for event in stage.written(1)] == [3, 4, 5]
    assert stage.text(1) == counting(6, first=4)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_tokens": 3}, FinishReason.LENGTH), ({"stop": ("2 103",)}, FinishReason.STOP)],
)
def test_an_answer_that_was_over_already_ends_at_once(limits, reason):
    stage = Stage()
    stage.run(1, resume=(101, 102, 103), **limits)
    assert stage.until_ended(1) == Ended(1, reason, 5, 3)
    assert stage.model.sizes == []
    assert FakeSampler.live == 0


def test_ids_that_the_model_does_not_have_cannot_be_resumed():
    stage = Stage(context=40)
    stage.run(1, resume=(101, 1000))
    stage.run(2, resume=(101,) * 36)
    assert stage.until_ended(1).param == "resume"
    assert stage.until_ended(2).code == "context_length_exceeded"


class FakeEmbedder:
    def embed(self, tokens):
        if len(tokens) > 4:
            raise ContextExceeded("too long")
        return bytes(tokens)


def test_texts_are_embedded_one_a_turn_between_the_steps_of_answers():
    stage = Stage(embedder=FakeEmbedder())
    stage.run(1, max_tokens=3)
    stage.ask(2, inputs=("1 2", "3"))
    stage.ask(3, inputs=("4",))
    stage.all_ended(3)
    assert [e for e in stage.events if isinstance(e, Embedded)] == [
        Embedded(2, 0, b"\1\2"),
        Embedded(3, 0, b"\4"),
        Embedded(2, 1, b"\3"),
    ]
    assert stage.until_ended(2) == Ended(2, FinishReason.STOP, 3, 0)
    assert len(stage.model.sizes) == 3


def test_a_text_that_cannot_be_embedded_ends_its_run_alone():
    stage = Stage(embedder=FakeEmbedder())
    stage.ask(1, inputs=("1", "1 2 3 4 5", "2"))
    stage.ask(2, inputs=("1", "2"))
    stage.ask(3, inputs=("1", "2"))
    stage.loop.turn()
    stage.commands.append(Cancel(3))
    assert stage.until_ended(1).code == "context_length_exceeded"
    assert stage.until_ended(2).prompt_tokens == 2
    assert stage.inspect().runs == 0
    assert not any(isinstance(e, Ended) and e.number == 3 for e in stage.events)


def test_speeds_follow_real_work_and_are_told_when_they_moved():
    now = [0.0]

    def clock():
        now[0] += 0.5
        return now[0]

    stage = Stage(clock=clock, cells=5000)
    stage.run(1, max_tokens=30)
    stage.until_ended(1)
    told = [event for event in stage.events if isinstance(event, Measured)]
    assert told
    assert told[-1].generate_tps < 20
    assert told[-1].prompt_tps == SPEED.prompt_tps
    stage.run(2, prompt=900, max_tokens=1)
    stage.until_ended(2)
    assert [event for event in stage.events if isinstance(event, Measured)][
        -1
    ].prompt_tps > SPEED.prompt_tps * 1.1
