"""The batched loop over a model of numbers: fairness, cells, cancels, with no llama.cpp in it."""

import pytest

pytest.importorskip("llama_cpp", reason="the loop's module needs llama-cpp-python")

from meshnode.engine.worker import loop as loop_module
from meshnode.engine.worker import sequence as sequence_module
from meshnode.engine.worker.frames import (
    Alive,
    Cancel,
    Ended,
    Prefilled,
    Refused,
    Run,
    Started,
    Threads,
    Written,
)
from meshnode.engine.worker.loop import DecodeError, Loop
from meshnode.terms import FinishReason, Sampling, Turn

END = 999


class FakeBatch:
    def __init__(self):
        self.added = []

    def __len__(self):
        return sum(len(tokens) for _, _, tokens in self.added)

    def add(self, sequence, position, tokens, *, last_logits):
        self.added.append((sequence, position, list(tokens)))
        return len(self) - 1


class FakeModel:
    """Each answer counts up from its prompt's first token; cells are counted as llama.cpp would."""

    handle = object()
    vocabulary = 1000

    def __init__(self, *, cells=1000, context=1000, slots=4):
        self.cells, self.context, self.slots = cells, context, slots
        self.cache = {slot: [] for slot in range(slots)}
        self.sizes = []
        self.status = 0
        self.threads = 0
        self.ends_at = END

    def tokens(self, prompt):
        return [int(word) for word in prompt.split()]

    def piece(self, token):
        return f"{token} ".encode()

    def ends(self, token):
        return token == self.ends_at

    def new_batch(self):
        return FakeBatch()

    def decode(self, batch):
        if self.status:
            return self.status
        for slot, position, tokens in batch.added:
            assert len(self.cache[slot]) == position, "positions must follow each other"
            self.cache[slot] += tokens
        assert sum(map(len, self.cache.values())) <= self.cells, "over-committed"
        self.sizes.append(len(batch))
        return 0

    def drop(self, slot):
        self.cache[slot] = []

    def set_threads(self, count):
        self.threads = count


class FakeSampler:
    live = 0

    def __init__(self, sampling, vocabulary):
        FakeSampler.live += 1
        self.next = 100

    def draw(self, context, row):
        assert row >= 0
        self.next += 1
        return self.next

    def free(self):
        FakeSampler.live -= 1


class FakeTemplate:
    def render(self, turns):
        return turns[0].content


class Stage:
    """A loop with its commands and events in reach."""

    def __init__(self, **model):
        self.model = FakeModel(**model)
        self.commands, self.events = [], []
        self.loop = Loop(self.model, FakeTemplate(), commands=self.take, emit=self.events.extend)

    def take(self, wait):
        assert self.commands or not wait, "the loop would sleep for ever"
        taken, self.commands = self.commands, []
        return taken

    def run(self, number, prompt=5, **sampling):
        text = " ".join(["7"] * prompt)
        self.commands.append(Run(number, (Turn(role="user", content=text),), Sampling(**sampling)))

    def until_ended(self, count, most=2000):
        for _ in range(most):
            if sum(isinstance(event, Ended | Refused) for event in self.events) >= count:
                return
            self.loop.turn()
        raise AssertionError("it does not end")

    def text(self, number):
        return "".join(e.text for e in self.events if isinstance(e, Written) and e.number == number)


def counting(tokens):
    return "".join(f"{100 + place} " for place in range(1, tokens + 1))


@pytest.fixture(autouse=True)
def _fake_sampler(monkeypatch):
    FakeSampler.live = 0
    monkeypatch.setattr(sequence_module, "Sampler", FakeSampler)


def test_more_runs_than_slots_all_finish_and_nothing_is_left():
    stage = Stage(slots=2)
    for number in range(1, 6):
        stage.run(number, max_tokens=10)
    stage.until_ended(5)
    assert [stage.text(number) for number in range(1, 6)] == [counting(10)] * 5
    assert FakeSampler.live == 0
    assert not any(stage.model.cache.values())


def test_a_long_prompt_is_read_in_chunks_while_others_go_on():
    stage = Stage()
    stage.run(1, max_tokens=50)
    stage.loop.turn()
    stage.run(2, prompt=400, max_tokens=1)
    stage.until_ended(1)
    steps = [event for event in stage.events if isinstance(event, Prefilled) and event.number == 2]
    assert [step.done for step in steps] == [128, 256, 384, 400]
    between = stage.events[stage.events.index(steps[0]) : stage.events.index(steps[-1])]
    assert sum(isinstance(event, Written) and event.number == 1 for event in between) == 3
    assert max(stage.model.sizes) <= loop_module.CHUNK_TOKENS + stage.model.slots


def test_answers_that_outgrow_the_cells_are_moved_out_and_still_whole(monkeypatch):
    monkeypatch.setattr(sequence_module, "EXPECTED_ANSWER_TOKENS", 5)
    stage = Stage(cells=64, context=64)
    for number in range(1, 5):
        stage.run(number, prompt=5, max_tokens=40)
    stage.until_ended(4)
    assert all(stage.text(number) == counting(40) for number in range(1, 5))
    assert [e.number for e in stage.events if isinstance(e, Started)] == [1, 2, 3, 4]


def test_admission_is_by_cells():
    stage = Stage(cells=64, context=64)
    stage.run(1, prompt=30, max_tokens=10)
    stage.run(2, prompt=30, max_tokens=10)
    stage.loop.turn()
    assert sum(bool(cache) for cache in stage.model.cache.values()) == 1
    stage.until_ended(2)


def test_a_prompt_that_does_not_fit_is_refused_with_counted_and_limit():
    stage = Stage(context=100)
    stage.run(1, prompt=90, max_tokens=20)
    stage.run(2, prompt=100, max_tokens=0)
    stage.run(3, prompt=0)
    stage.until_ended(3)
    codes = [event.code for event in stage.events if isinstance(event, Refused)]
    assert codes == ["context_length_exceeded", "context_length_exceeded", "invalid_request"]
    assert "90 tokens and 20 more" in stage.events[0].message
    assert "100 tokens" in stage.events[0].message


def test_without_max_tokens_the_context_is_the_limit():
    stage = Stage(context=30)
    stage.run(1, prompt=10)
    stage.until_ended(1)
    assert stage.events[-1] == Ended(1, FinishReason.LENGTH, 10, 20)


def test_the_models_own_end_is_a_stop_and_is_not_counted():
    stage = Stage()
    stage.model.ends_at = 104
    stage.run(1)
    stage.until_ended(1)
    assert stage.events[-1] == Ended(1, FinishReason.STOP, 5, 3)
    assert stage.text(1) == counting(3)


def test_a_stop_string_ends_a_run():
    stage = Stage()
    stage.run(1, stop=("3 10",))
    stage.until_ended(1)
    assert stage.text(1) == "101 102 10"
    assert stage.events[-1].reason is FinishReason.STOP


def test_a_cancel_frees_the_slot_at_the_next_step_even_in_a_long_prompt():
    stage = Stage(slots=1)
    stage.run(1, prompt=900)
    stage.run(2, prompt=5, max_tokens=1)
    stage.loop.turn()
    stage.commands.append(Cancel(1))
    stage.until_ended(1)
    assert not any(isinstance(event, Ended) and event.number == 1 for event in stage.events)
    assert stage.text(2) == counting(1)
    stage.run(3, prompt=5)
    stage.commands.append(Cancel(3))
    stage.run(4, prompt=5, max_tokens=1)
    stage.until_ended(2)
    assert FakeSampler.live == 0


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
    stage.model.status = -3
    with pytest.raises(DecodeError):
        stage.loop.turn()


def test_the_thread_count_can_be_changed():
    stage = Stage()
    stage.commands.append(Threads(3))
    stage.loop.turn()
    assert stage.model.threads == 3
