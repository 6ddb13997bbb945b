"""Spot checks at the origin: what is gathered, what is left alone, and when the machine is free for it."""

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.routing.spotchecks import PLACES, Finding, SpotChecks
from meshnode.seams import Seams
from meshnode.serve import spotcheck as spotcheck_module
from meshnode.serve.local import Bench
from meshnode.serve.scopes import Scopes
from meshnode.serve.spotcheck import IDLE_WITHIN_S, WAITING_MAX, SpotChecker
from meshnode.serve.transcript import BARE_MAX, IDS_MAX
from meshnode.terms import (
    Candidate,
    End,
    FinishReason,
    Job,
    Openness,
    Output,
    Piece,
    Privacy,
    Recheck,
    Redrawn,
    Sampling,
    Tool,
    Turn,
    Usage,
)
from tests.routing.offers import job as made_job
from tests.routing.offers import offer

END = End(FinishReason.STOP, Usage(1, 2))
numbers = itertools.count()
SEEDED = Sampling(temperature=0.5, seed=5)


class Checking(ScriptedEngine):
    """Takes note of what it is to check, and finds everything missed."""

    def __init__(self) -> None:
        super().__init__(scripted_card())
        self.checked: list[Recheck] = []

    async def recheck(self, check: Recheck) -> tuple[Redrawn, ...]:
        self.checked.append(check)
        return tuple(Redrawn(0, 0.0, 0.0, 1.0) for _ in check.ids[check.start :])


class Stage:
    def __init__(self, share: float = 1.0) -> None:
        self.engine = Checking()
        self.bench = Bench((self.engine,), Scopes(b"test"))
        self.found: list[Finding] = []
        seams = Seams(rng=random.Random(1))
        self.checker = SpotChecker(self.bench, SpotChecks(seams.rng, share), seams, self._found)
        self.card = scripted_card()
        self.number = 1

    async def _found(self, candidate: Candidate, finding: Finding) -> None:
        self.found.append(finding)

    @property
    def candidate(self) -> Candidate:
        return offer(self.number, model=self.card)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.engine.serve)
            await trio.sleep(0.01)
            nursery.start_soon(self.checker.run)
            yield
            nursery.cancel_scope.cancel()

    async def answered(
        self, job: Job, ids: int = 40, *, text: str = "hello", end: bool = True, seconds: float = 1.0
    ) -> list[Recheck]:
        """An answer to a job has come; what is checked within so many seconds."""
        _, hear = self.checker.watch(self.candidate, job)
        hear(Piece(0, tuple(range(ids)), text))
        if end:
            hear(END)
        await trio.sleep(seconds)
        return self.engine.checked


def asked(wish: dict[str, Any] | None = None, **parts: Any) -> Job:
    """A question that nobody has asked before."""
    turns = (Turn(role="user", content=f"{next(numbers)}?"),)
    return msgspec.structs.replace(made_job(**(wish or {})), **{"sampling": SEEDED, "turns": turns, **parts})


async def test_the_same_question_is_checked_once_with_each_node() -> None:
    stage = Stage()
    async with stage.running():
        job = asked()
        for _ in range(5):
            await stage.answered(job)
        assert len(stage.engine.checked) == 1
        stage.number = 2
        await stage.answered(msgspec.structs.replace(job, id="again"))
        assert len(stage.engine.checked) == 2


async def test_what_was_asked_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spotcheck_module, "ASKED_MAX", 3)
    stage, jobs = Stage(), [asked() for _ in range(4)]
    async with stage.running():
        for job in (*jobs, jobs[0], jobs[3]):
            await stage.answered(job)
        assert len(stage.engine.checked) == 5


async def test_some_places_of_an_answer_are_checked_by_the_job_as_it_was_sent() -> None:
    stage = Stage()
    async with stage.running():
        job = asked()
        (check,) = await stage.answered(job, ids=100)
        assert check.job == job
        assert len(check.ids) - check.start == PLACES
        assert check.ids == tuple(range(len(check.ids)))
        assert check.text == "hello"


async def test_which_places_is_drawn_by_lot() -> None:
    stage = Stage()
    async with stage.running():
        for _ in range(10):
            await stage.answered(asked(), ids=500)
    assert len({check.start for check in stage.engine.checked}) > 5


async def test_what_a_node_resumed_with_is_not_held_against_it() -> None:
    stage = Stage()
    async with stage.running():
        for _ in range(20):
            await stage.answered(asked(resume=(7,) * 50), ids=5)
    assert {check.start for check in stage.engine.checked} == {50}
    assert {check.ids for check in stage.engine.checked} == {(7,) * 50 + (0, 1, 2, 3, 4)}
    assert {check.text for check in stage.engine.checked} == {""}


def test_lots_are_drawn_by_a_seed_where_they_may_be_checked() -> None:
    stage = Stage()
    sent = [_sent(stage, Sampling(temperature=0.5)).seed for _ in range(2)]
    assert None not in sent
    assert sent[0] != sent[1]
    assert _sent(stage, SEEDED) == SEEDED
    assert _sent(stage, Sampling(temperature=0.0)).seed is None


def _sent(stage: Stage, sampling: Sampling) -> Sampling:
    trio.run(_ready, stage)
    return stage.checker.watch(stage.candidate, asked(sampling=sampling))[0].sampling


async def _ready(stage: Stage) -> None:
    with trio.move_on_after(0.05):
        await stage.engine.serve()


@pytest.mark.parametrize(
    "job",
    [
        asked({"privacy": Privacy.SENSITIVE}),
        asked({"privacy": Privacy.LOCAL}),
        asked(output=Output.JSON_OBJECT),
        asked(tools=(Tool(name="look"),)),
        asked(inputs=("text",)),
    ],
    ids=("sensitive", "local", "json", "tools", "vectors"),
)
async def test_what_may_or_can_not_be_checked_is_not_kept(job: Job) -> None:
    stage = Stage()
    async with stage.running():
        assert await stage.answered(job) == []


async def test_an_answer_that_was_left_or_is_empty_is_not_checked() -> None:
    stage = Stage()
    async with stage.running():
        assert await stage.answered(asked(), end=False) == []
        assert await stage.answered(asked(), ids=0, text="") == []


async def test_nothing_is_checked_without_these_weights_or_with_a_share_of_nothing() -> None:
    for stage in (Stage(share=0.0), Stage()):
        if stage.checker._checks.on:
            stage.card = scripted_card("another:model")
        async with stage.running():
            assert await stage.answered(asked(sampling=Sampling())) == []
            assert stage.checker.watch(stage.candidate, asked(sampling=Sampling()))[0].sampling == Sampling()


async def test_text_without_ids_that_were_promised_counts_as_missed() -> None:
    stage = Stage()
    async with stage.running():
        for _ in range(10):
            await stage.answered(asked(), ids=0, text="x" * (BARE_MAX + 1))
        assert stage.engine.checked == []
        assert [one.missed for one in stage.found[:1]] == [4 * PLACES]
        stage.found.clear()
        for _ in range(10):
            await stage.answered(asked(), ids=0, text="x" * BARE_MAX)
            stage.card = scripted_card(features=())
            await stage.answered(asked(), ids=0, text="x" * 1000)
            stage.card = scripted_card()
        assert stage.found == []


async def test_a_check_waits_for_an_idle_moment_and_not_for_ever() -> None:
    stage = Stage()
    async with stage.running(), trio.open_nursery() as nursery:
        nursery.start_soon(stage_run, stage, 6.0)
        await trio.sleep(0.1)
        assert await stage.answered(asked(), seconds=4.0) == []
        await trio.sleep(4.0)
        assert len(stage.engine.checked) == 1
        nursery.start_soon(stage_run, stage, IDLE_WITHIN_S + 10)
        await trio.sleep(0.1)
        await stage.answered(asked(), seconds=IDLE_WITHIN_S + 20)
        assert len(stage.engine.checked) == 1


async def stage_run(stage: Stage, seconds: float) -> None:
    """The engine works for so long."""
    stage.engine.answer_tokens = 10_000
    with trio.move_on_after(seconds):
        while True:
            async with stage.bench.run(stage.card.digest, asked(), b"o" * 20) as pieces:
                async for _ in pieces:
                    pass


async def test_a_check_waits_while_the_owner_needs_the_machine() -> None:
    stage = Stage()
    async with stage.running():
        stage.bench.gate.set_openness(Openness.PAUSED_FOR_REMOTE)
        assert await stage.answered(asked(), seconds=10.0) == []
        stage.bench.gate.set_openness(Openness.ACCEPTING)
        await trio.sleep(1.0)
        assert len(stage.engine.checked) == 1


async def test_what_waits_is_bounded_and_the_newest_stays() -> None:
    stage = Stage()
    async with stage.running():
        stage.bench.gate.set_openness(Openness.PAUSED)
        for number in range(WAITING_MAX + 10):
            await stage.answered(asked(id=str(number)), seconds=0.0)
        stage.bench.gate.set_openness(Openness.ACCEPTING)
        await trio.sleep(5.0)
        checked = [check.job.id for check in stage.engine.checked]
        assert len(checked) <= WAITING_MAX + 1
        assert checked[-1] == str(WAITING_MAX + 9)


async def test_of_a_long_answer_only_so_much_is_kept() -> None:
    stage = Stage()
    async with stage.running():
        stage.bench.gate.set_openness(Openness.PAUSED)
        await stage.answered(asked(id="another"), seconds=0.1)
        _, hear = stage.checker.watch(stage.candidate, asked())
        for number in range(3 * IDS_MAX // 100):
            hear(Piece(100 * number, tuple(range(100)), "x" * 100))
        hear(END)
        (kept,) = stage.checker._waiting
        assert IDS_MAX <= len(kept.ids) < IDS_MAX + 100
        assert len(kept.text) == len(kept.ids)
