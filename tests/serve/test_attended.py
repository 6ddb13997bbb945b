"""A run that is watched: patience with who shows life, an end for who shows none, and what is told of either."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from meshnode.errors import BadRequest, Busy, EngineFailed, Interrupted, MeshError, Unreachable
from meshnode.routing.breaker import Outcome
from meshnode.routing.router import Flight, Router
from meshnode.serve.attended import FIRST_BYTE_S, STALL_S, Stalled, attended, outcome_of
from meshnode.serve.running import Silent
from meshnode.terms import Emitted, End, FinishReason, Piece, Progress, Usage
from tests.routing.offers import job, offer

END = End(FinishReason.STOP, Usage(1, 2))
Step = Emitted | MeshError | float


class Run(AsyncIterator[Emitted]):
    """Emits, raises, or takes so many seconds."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = list(steps)

    async def __anext__(self) -> Emitted:
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, MeshError):
                raise step
            if not isinstance(step, float):
                return step
            await trio.sleep(step)
        raise StopAsyncIteration


class Stage:
    def __init__(self) -> None:
        self.router = Router(random.Random(1))

    @property
    def open(self) -> bool:
        key = (offer(1).node, offer(1).card.digest)
        return not self.router.breakers.lets_through(key, trio.current_time())

    def flight(self) -> Flight:
        now = trio.current_time()
        return self.router.sent(self.router.choice(offer(1), job(), {}, now), job(), {}, now)

    async def run(self, *steps: Step) -> list[Emitted]:
        @asynccontextmanager
        async def running() -> AsyncIterator[AsyncIterator[Emitted]]:
            yield Run(steps)

        async with attended(running(), self.flight()) as pieces:
            return [item async for item in pieces]


async def test_what_is_emitted_passes() -> None:
    items: tuple[Emitted, ...] = (Progress(1, 2), Piece(0, (1,), "a"), END)
    assert await Stage().run(*items) == list(items)


async def test_one_that_says_nothing_costs_one_first_byte_timeout_and_then_nothing() -> None:
    stage = Stage()
    with pytest.raises(Stalled):
        await stage.run(3600.0, END)
    assert FIRST_BYTE_S < trio.current_time() < FIRST_BYTE_S + 2.0
    assert stage.open


async def test_progress_keeps_a_long_prefill_alive_but_not_for_ever() -> None:
    stage = Stage()
    alive = [step for number in range(9) for step in (STALL_S - 1, Progress(number, 9))]
    assert len(await stage.run(Progress(0, 9), *alive, END)) == 11
    with pytest.raises(Stalled):
        await stage.run(Progress(0, 9), Piece(0, (1,), "a"), STALL_S + 1, END)


async def test_silence_of_the_link_is_somebody_elses_and_moves_no_time() -> None:
    stage = Stage()

    @asynccontextmanager
    async def running() -> AsyncIterator[AsyncIterator[Emitted]]:
        yield Run((1.0, Silent("."), 3600.0))

    async with attended(running(), stage.flight()) as pieces:
        with pytest.raises(Silent):
            await anext(pieces)
        assert not stage.open
        with pytest.raises(Stalled):
            await anext(pieces)
    assert trio.current_time() < FIRST_BYTE_S + 2.0


async def test_three_failures_open_the_breaker_and_what_is_not_its_fault_does_not() -> None:
    stage = Stage()
    for error in (Busy("."), BadRequest("."), Busy("."), BadRequest(".")):
        with pytest.raises(MeshError):
            await stage.run(error)
    assert not stage.open
    for failure in (Unreachable("."), EngineFailed("."), Interrupted(".")):
        with pytest.raises(MeshError):
            await stage.run(failure)
    assert stage.open


async def test_leaving_says_nothing_about_the_node() -> None:
    stage = Stage()
    for _ in range(5):
        with trio.move_on_after(1.0):
            await stage.run(3600.0)
    assert not stage.open


def test_what_errors_say() -> None:
    assert outcome_of(Stalled(".")) is Outcome.SILENT
    assert outcome_of(Unreachable(".")) is Outcome.FAILED
    assert outcome_of(Busy(".")) is None
