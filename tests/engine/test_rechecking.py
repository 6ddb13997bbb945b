"""Spot checks in the worker: the same weights draw the same answer, and a check gives way to everything."""

import msgspec
import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the loop's module needs llama-cpp-python")

from meshnode.engine.worker import rechecking as rechecking_module
from meshnode.engine.worker import sequence as sequence_module
from meshnode.engine.worker.frames import Cancel, Check, Checked, Run
from meshnode.engine.worker.held import candidates
from meshnode.engine.worker.llama import CHUNK_TOKENS
from meshnode.engine.worker.redraw import _Lots
from meshnode.engine.worker.sampling import Sampler
from meshnode.terms import Job, Output, Recheck, Redrawn, Sampling, Tool, Turn, Wish
from tests.engine.fake_model import FakeModel, FakeSampler, FakeTemplate
from tests.engine.stage import RealStage, Stage

NEAR_TIE = 0.2  # see meshnode.routing.spotchecks
QUESTION = "Tell me about rivers."


def check_of(number, ids, *, start=0, text=QUESTION, **parts):
    job = {name: parts.pop(name) for name in list(parts) if name in Job.__struct_fields__}
    turns = (Turn(role="user", content=text),)
    settings = Sampling(**({"temperature": 0.0} | parts))
    return Check(
        number, Recheck(Job(id=str(number), wish=Wish(), turns=turns, sampling=settings, **job), ids, start)
    )


def checked(stage, number):
    return [event for event in stage.events if isinstance(event, Checked) and event.number == number]


def found(stage, check, most=100):
    """What a check finds."""
    stage.commands.append(check)
    for _ in range(most):
        stage.loop.turn()
        if said := checked(stage, check.number):
            return said[0].places
    raise AssertionError("it does not end")


# --- What is drawn again, by the real model ---


@pytest.fixture(scope="module")
def real(model_file):
    return RealStage(model_file)


SAMPLINGS = (
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 11},
    {"temperature": 1.2, "seed": 12, "presence_penalty": 1.0, "top_k": 0, "min_p": 0.0},
    {"temperature": 0.0, "frequency_penalty": 1.5},
)


@pytest.mark.model
@pytest.mark.parametrize("start", [0, 9])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=("likeliest", "seeded", "wide", "penalised"))
def test_the_same_weights_draw_the_same_answer_from_any_place_on(real, sampling, start):
    number = 100 + SAMPLINGS.index(sampling)
    if not real.ids(number):
        real.ask(number, QUESTION, max_tokens=20, **sampling)
        real.until_ended(number)
    ids = real.ids(number)
    places = found(real, check_of(10 * number + start, ids, start=start, **sampling))
    assert len(places) == len(ids) - start
    assert sum(place.miss > NEAR_TIE for place in places) == 0
    assert sum(place.token == ids[at] for at, place in enumerate(places, start)) >= len(places) - 2
    assert all(place.written <= 0 for place in places)


@pytest.mark.model
def test_the_lots_are_those_that_the_sampler_draws_by(real):
    settings = Sampling(temperature=1.0, seed=21, top_k=0, top_p=1.0, min_p=0.0)
    sampler = Sampler(Job(id="x", wish=Wish(), turns=(), sampling=settings), real.model)
    flat = candidates(np.arange(1000), np.zeros(1000))
    drawn = [sampler._pick(flat.copy()) for _ in range(6)]
    lots, later = _Lots(21, 0), _Lots(21, 4)
    first = [lots.next() for _ in range(6)]
    assert [later.next() for _ in range(2)] == first[4:]
    assert all(abs(lot - (token + 0.5) / 1000) < 0.001 for lot, token in zip(first, drawn, strict=True))
    for made in (sampler, lots, later):
        made.free()


@pytest.mark.model
def test_what_is_drawn_otherwise_is_seen(real):
    real.ask(201, QUESTION, max_tokens=20, temperature=1.0, seed=3)
    real.until_ended(201)
    ids = real.ids(201)
    for number, other in ((202, {"temperature": 1.0, "seed": 4}), (203, {"temperature": 0.0})):
        places = found(real, check_of(number, ids, **other))
        assert sum(place.miss > NEAR_TIE for place in places) >= 2
    elsewhere = found(real, check_of(204, ids, text="Write a poem about iron.", temperature=1.0, seed=3))
    assert sum(place.miss > NEAR_TIE for place in elsewhere) >= 2


@pytest.mark.model
def test_ids_that_the_model_does_not_have_are_missed_at_every_place(real):
    for number, wrong in ((205, 200_000), (216, 49_152), (217, -1)):
        places = found(real, check_of(number, (5, 6, wrong), start=1))
        assert [place.miss for place in places] == [1.0, 1.0]


@pytest.mark.model
def test_text_that_is_not_what_the_ids_spell_is_missed_at_every_place(real):
    real.ask(208, "Write: naïve café 日本 🙂", max_tokens=12)
    real.until_ended(208)
    ids, text = real.ids(208), real.text(208)

    def misses(number, text, ids=ids):
        command = check_of(number, ids, text="Write: naïve café 日本 🙂")
        command = Check(number, msgspec.structs.replace(command.check, text=text))
        return sum(place.miss > NEAR_TIE for place in found(real, command))

    assert misses(209, text) == misses(210, text + " and more") == misses(211, text, ids[:5]) == 0
    assert misses(212, "Something else.") == misses(213, text[:-3]) == len(ids)


@pytest.mark.model
def test_a_prompt_with_a_date_in_it_is_not_held_against_anybody(real, monkeypatch):
    monkeypatch.setattr(real.loop._template, "dated", True)
    dated = check_of(214, (5, 6, 7))
    assert found(real, dated) == ()
    text = msgspec.structs.replace(dated.check.job, turns=(Turn(role="text", content=QUESTION),))
    undated = msgspec.structs.replace(dated, number=215, check=msgspec.structs.replace(dated.check, job=text))
    assert len(found(real, undated)) == 3


@pytest.mark.model
def test_nothing_of_a_check_stays_in_the_cache(real):
    real.inspect(forget=True)
    found(real, check_of(206, (5, 6, 7)))
    inspected = real.inspect()
    assert (inspected.cells, inspected.idle, inspected.occupied) == (0, 0, 0)


@pytest.mark.model
@pytest.mark.parametrize(
    "parts",
    [
        {"temperature": 0.7},
        {"output": Output.JSON_OBJECT},
        {"tools": (Tool(name="look"),)},
        {"start": 3},
        {"text": "word " * 4000},
    ],
    ids=("no seed", "schema", "tools", "no place left", "too long"),
)
def test_what_cannot_be_drawn_again_is_said_to_be_nothing(real, parts):
    before = real.computed
    assert found(real, check_of(207, (5, 6, 7), **parts)) == ()
    assert real.computed == before
    real.events.clear()


# --- When it is drawn, over a model of numbers ---


class FakeRedraw:
    """Finds every place as it was written; looks at what was computed for its rows."""

    live = 0

    def __init__(self, check, model, style):
        FakeRedraw.live += 1
        self.model, self.before = model, [7] * len(check.job.turns[0].content.split())
        self.before += check.ids[: check.start]

    def at(self, row, written):
        assert self.model.rows[row] == self.before, "drawn from something else than was written"
        self.before.append(written)
        return Redrawn(written, 0.0, 0.0, 0.0)

    def free(self):
        FakeRedraw.live -= 1


@pytest.fixture
def stage(monkeypatch):
    FakeSampler.live = FakeRedraw.live = 0
    monkeypatch.setattr(sequence_module, "Sampler", FakeSampler)
    monkeypatch.setattr(rechecking_module, "Redraw", FakeRedraw)
    return Stage(FakeModel(), FakeTemplate(), embedder=None, clock=lambda: 0.0)


def long_check(number, *, prompt=300, ids=40, start=8):
    return check_of(number, tuple(range(1, ids + 1)), text=" ".join(["7"] * prompt), start=start)


def test_a_check_is_read_in_short_steps_and_drawn_row_by_row(stage):
    places = found(stage, long_check(1))
    assert [place.token for place in places] == list(range(9, 41))
    assert max(stage.model.sizes) <= CHUNK_TOKENS
    assert (stage.model.used, FakeRedraw.live) == (0, 0)


def test_a_check_is_given_up_the_moment_a_run_comes(stage):
    stage.commands.append(long_check(1))
    stage.loop.turn()
    assert stage.model.used == CHUNK_TOKENS
    stage.ask(2, "7 7 7", max_tokens=3)
    stage.loop.turn()
    assert checked(stage, 1) == [Checked(1)]
    assert (stage.model.used, FakeRedraw.live) == (3, 0)
    stage.until_ended(2)


def test_a_check_does_not_begin_beside_a_run(stage):
    stage.ask(1, "7 7 7", max_tokens=50)
    stage.loop.turn()
    stage.commands.append(long_check(2))
    stage.loop.turn()
    assert checked(stage, 2) == [Checked(2)]


def test_a_step_of_a_check_is_interrupted_by_a_run_that_comes(stage):
    run = Run(2, long_check(0).check.job)
    stage.model.on_decode = lambda: stage.loop.foresee(run)
    assert found(stage, long_check(1)) == ()
    assert (stage.model.used, FakeRedraw.live) == (0, 0)


def test_one_check_at_a_time(stage):
    stage.commands += [long_check(1), long_check(2)]
    stage.loop.turn()
    assert checked(stage, 2) == [Checked(2)]
    assert len(finished(stage, 1)) == 32


def finished(stage, number):
    while not checked(stage, number):
        stage.loop.turn()
    return checked(stage, number)[0].places


def test_a_check_that_nobody_waits_for_ends(stage):
    stage.commands.append(long_check(1))
    stage.loop.turn()
    stage.commands.append(Cancel(1))
    stage.loop.turn()
    assert (stage.model.used, FakeRedraw.live, checked(stage, 1)) == (0, 0, [])
