"""A request on two nodes: whoever writes first goes on alone, the other is left at once, and nothing comes twice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from meshnode.errors import Busy, EngineFailed, MeshError, Unreachable
from meshnode.routing.hedging import SAVED_MOST, TIMES_LEAST, Hedging, kind_of
from meshnode.routing.retries import FLOOR, RetryBudget
from meshnode.serve.hedge import Hedger
from meshnode.serve.trial import SILENCE_S
from meshnode.serve.walk import Walk
from meshnode.terms import Answer, Emitted, Privacy
from tests.routing.offers import card, job
from tests.serve.test_walk import END, READ, Stage, Step, piece

AFTER_S = 0.5
PUBLIC = job(privacy=Privacy.PUBLIC)
ANSWER: list[Step] = [piece(0), piece(1), END]


class HedgedStage(Stage):
    """As the walk's, with hedges on, and figures that say when."""

    def __init__(self, *scripts: list[Step], on: bool = True, saved: int = 2) -> None:
        super().__init__(*scripts)
        self.budget = RetryBudget()
        self.hedging = Hedging(self.budget, on=on)
        self.outcomes: list[str] = []
        for _ in range(TIMES_LEAST):
            self.hedging.began(kind_of(PUBLIC, card()), AFTER_S)
        for _ in range(20 * saved):
            self.hedging.asked()
        self.walk = Walk(
            self.admission,
            self.choose,
            self.run_on,
            self.answer_for,
            self.budget,
            hedger=Hedger(self.hedging, self.outcomes.append),
        )

    @asynccontextmanager
    async def asked(self, **wish: object) -> AsyncIterator[tuple[Answer, AsyncIterator[Emitted], float]]:
        """A running answer, and the seconds until its first item."""
        began = trio.current_time()
        wished = msgspec.structs.replace(PUBLIC, wish=msgspec.structs.replace(PUBLIC.wish, **wish))
        async with self.walk.ask(wished) as running:
            yield running.answer, running.pieces, trio.current_time() - began


async def test_a_node_that_says_nothing_is_overtaken_and_left_at_once() -> None:
    stage = HedgedStage([20.0, *ANSWER], ANSWER)
    async with stage.asked() as (answer, pieces, took_s):
        assert (answer.served_by, answer.attempts) == ("1", 2)
        assert took_s == pytest.approx(AFTER_S, abs=0.01)
        assert stage.running == 1
        assert [one async for one in pieces] == ANSWER
    assert stage.outcomes == ["won"]
    assert "which won" in stage.hedging.account(PUBLIC, None)


async def test_the_first_wins_where_it_writes_first_and_the_second_is_left_at_once() -> None:
    stage = HedgedStage([AFTER_S + 0.2, *ANSWER], [20.0, *ANSWER])
    async with stage.asked() as (answer, pieces, took_s):
        assert answer.served_by == "0"
        assert took_s == pytest.approx(AFTER_S + 0.2, abs=0.01)
        assert stage.running == 1
        assert len(stage.jobs) == 2
        assert [one async for one in pieces] == ANSWER
    assert stage.outcomes == ["lost"]


async def test_who_answers_in_time_is_not_hedged() -> None:
    stage = HedgedStage([AFTER_S - 0.1, *ANSWER], ANSWER)
    async with stage.asked() as (answer, pieces, _):
        assert answer.served_by == "0"
        assert [one async for one in pieces] == ANSWER
    assert (len(stage.jobs), stage.outcomes) == (1, [])


async def test_progress_is_no_token() -> None:
    stage = HedgedStage([READ, 0.3, READ, 20.0, *ANSWER], [READ, 0.1, *ANSWER])
    async with stage.asked() as (answer, pieces, took_s):
        assert answer.served_by == "1"
        assert took_s == pytest.approx(AFTER_S + 0.1, abs=0.01)
        assert [one async for one in pieces] == ANSWER


async def test_nothing_is_hedged_once_the_client_has_heard_who_serves() -> None:
    stage = HedgedStage([SILENCE_S + 0.1, READ, 20.0, *ANSWER], [30.0, *ANSWER])
    async with stage.asked() as (answer, pieces, _):
        assert answer.served_by == "0"
        assert stage.running == 1
        assert [one async for one in pieces] == [READ, *ANSWER]
    assert stage.outcomes == ["lost"]


async def test_after_the_first_token_nothing_is_hedged() -> None:
    stage = HedgedStage([piece(0), 20.0, piece(1), END], ANSWER)
    async with stage.asked() as (_, pieces, _took_s):
        assert [one async for one in pieces] == ANSWER
    assert len(stage.jobs) == 1


@pytest.mark.parametrize("error", [Unreachable("gone"), EngineFailed("broken"), Busy("full")])
async def test_where_the_first_fails_the_second_is_the_next_attempt(error: MeshError) -> None:
    stage = HedgedStage([AFTER_S + 0.1, error], [0.5, *ANSWER], ANSWER)
    async with stage.asked() as (answer, pieces, took_s):
        assert (answer.served_by, answer.attempts) == ("1", 2)
        assert took_s == pytest.approx(AFTER_S + 0.5, abs=0.01)
        assert [one async for one in pieces] == ANSWER
    assert len(stage.jobs) == 2


@pytest.mark.parametrize("script", [[Unreachable("gone")], [], [0.1, EngineFailed("broken")]])
async def test_a_second_that_fails_leaves_the_first_as_it_was(script: list[Step]) -> None:
    stage = HedgedStage([2.0, *ANSWER], script)
    async with stage.asked() as (answer, pieces, _):
        assert answer.served_by == "0"
        assert [one async for one in pieces] == ANSWER
    assert stage.outcomes == ["failed"]


async def test_where_both_fail_the_third_is_tried() -> None:
    stage = HedgedStage([1.0, Unreachable("gone")], [0.2, Unreachable("gone")], ANSWER)
    async with stage.asked() as (answer, pieces, _):
        assert (answer.served_by, answer.attempts) == ("2", 3)
        assert [one async for one in pieces] == ANSWER
    assert stage.running == 0


async def test_a_client_that_leaves_leaves_both() -> None:
    stage = HedgedStage([20.0, *ANSWER], [20.0, *ANSWER])
    with trio.move_on_after(AFTER_S + 1):
        async with stage.asked():
            raise AssertionError
    assert len(stage.jobs) == 2
    assert stage.running == 0


@pytest.mark.parametrize("privacy", [Privacy.PRIVATE, Privacy.SENSITIVE])
async def test_a_private_request_goes_to_one_node(privacy: Privacy) -> None:
    stage = HedgedStage([20.0, *ANSWER], ANSWER)
    async with stage.asked(privacy=privacy) as (answer, _, took_s):
        assert (answer.served_by, took_s) == ("0", pytest.approx(20, abs=0.1))
    assert len(stage.jobs) == 1


async def test_where_it_is_off_a_request_goes_to_one_node() -> None:
    stage = HedgedStage([20.0, *ANSWER], ANSWER, on=False)
    async with stage.asked() as (answer, _, _took_s):
        assert answer.served_by == "0"


async def test_hedges_are_bounded_and_so_are_those_of_a_whole_mesh_in_trouble() -> None:
    stage = HedgedStage([2.0, *ANSWER], ANSWER, saved=2)
    for _ in range(10):
        async with stage.asked():
            pass
    assert len(stage.outcomes) == 2
    stage = HedgedStage([2.0, *ANSWER], ANSWER, saved=int(SAVED_MOST))
    stage.budget.asked(trio.current_time())
    for _ in range(FLOOR + 1):
        stage.budget.may_retry(trio.current_time())
    async with stage.asked():
        assert stage.outcomes == []
