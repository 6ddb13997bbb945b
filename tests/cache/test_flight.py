"""Shared runs as a play: who leads, who joins late, who leaves, and what breaks."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
import trio
import trio.testing

from meshnode.cache.flight import Flight, Flights
from meshnode.errors import Busy, Interrupted, MeshError
from meshnode.terms import Answer, Emitted, Piece
from tests.cache.small_cache import answer, said

KEY = b"k"
WHOLE = said("a", "b", "c")
Step = Emitted | Exception


class Stage:
    """Flights of one script, with a second before each step."""

    def __init__(self, *steps: Step, refusal: Exception | None = None) -> None:
        self.flights = Flights()
        self.steps = steps
        self.refusal = refusal
        self.starts = 0
        self.running = 0
        self.landed: list[Flight] = []

    def board(self, deadline: float = 100.0) -> Flight:
        found = self.flights.find(KEY, deadline)
        return found or self.flights.start(KEY, deadline, self.start, self.on_landed)

    async def on_landed(self, flight: Flight) -> None:
        self.landed.append(flight)

    @asynccontextmanager
    async def start(self) -> AsyncIterator[tuple[Answer, AsyncIterator[Emitted]]]:
        self.starts += 1
        if self.refusal is not None:
            raise self.refusal
        self.running += 1
        try:
            async with aclosing(self.play()) as pieces:
                yield answer(), pieces
        finally:
            self.running -= 1

    async def play(self) -> AsyncGenerator[Emitted, None]:
        for step in self.steps:
            await trio.sleep(1)
            if isinstance(step, Exception):
                raise step
            yield step

    async def hear(self, heard: list[Emitted], most: int = 99, deadline: float = 100.0) -> None:
        flight = self.board(deadline)
        with self.flights.aboard(flight):
            await flight.begun()
            while len(heard) < most and (item := await flight.item(len(heard))) is not None:
                heard.append(item)


@asynccontextmanager
async def in_the_air(stage: Stage) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await nursery.start(stage.flights.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def test_a_hundred_identical_requests_cause_one_run() -> None:
    stage, heard = Stage(*WHOLE), [list[Emitted]() for _ in range(100)]
    async with in_the_air(stage), trio.open_nursery() as nursery:
        for each in heard:
            nursery.start_soon(stage.hear, each)
    assert heard == [WHOLE] * 100
    assert (stage.starts, stage.running, len(stage.landed)) == (1, 0, 1)


async def test_who_comes_late_hears_it_from_the_start() -> None:
    stage, early, late = Stage(*WHOLE), list[Emitted](), list[Emitted]()
    async with in_the_air(stage), trio.open_nursery() as nursery:
        nursery.start_soon(stage.hear, early)
        await trio.sleep(2.5)
        await stage.hear(late)
    assert early == late == WHOLE
    assert stage.starts == 1


async def test_the_first_may_leave_without_harm_to_the_others() -> None:
    stage, first, other = Stage(*WHOLE), list[Emitted](), list[Emitted]()
    async with in_the_air(stage), trio.open_nursery() as nursery:
        nursery.start_soon(stage.hear, first, 1)
        await trio.sleep(0.5)
        nursery.start_soon(stage.hear, other)
    assert (first, other) == (WHOLE[:1], WHOLE)
    assert stage.starts == 1


async def test_the_run_ends_when_the_last_has_left() -> None:
    stage, heard = Stage(*WHOLE), list[Emitted]()
    async with in_the_air(stage):
        await stage.hear(heard, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert (stage.running, stage.landed) == (0, [])
        await stage.hear(again := list[Emitted]())
    assert again == WHOLE
    assert stage.starts == 2


@pytest.mark.parametrize("steps", [(), WHOLE[:2]])
async def test_all_hear_of_what_broke_it_off_each_an_error_of_its_own(steps: list[Step]) -> None:
    stage, caught = Stage(*steps, Busy("full", retry_after_s=3)), list[MeshError]()

    async def hear() -> None:
        heard = list[Emitted]()
        with pytest.raises(Busy, match="full") as one:
            await stage.hear(heard)
        assert heard == list(steps)
        caught.append(one.value)

    async with in_the_air(stage), trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        nursery.start_soon(hear)
    assert caught[0] is not caught[1]
    assert [one.retry_after_s for one in caught] == [3, 3]
    assert stage.flights.find(KEY, 0) is None


async def test_a_refusal_before_it_began_is_everybodys() -> None:
    stage = Stage(refusal=ValueError("a fault of ours"))
    async with in_the_air(stage):
        with pytest.raises(MeshError, match="inside the node"):
            await stage.hear([])


async def test_a_flight_that_would_end_too_early_is_not_joined() -> None:
    stage, heard = Stage(*WHOLE), [list[Emitted](), list[Emitted]()]
    async with in_the_air(stage), trio.open_nursery() as nursery:
        nursery.start_soon(stage.hear, heard[0], 99, 10.0)
        await trio.sleep(1)
        nursery.start_soon(stage.hear, heard[1], 99, 20.0)
    assert heard == [WHOLE, WHOLE]
    assert stage.starts == 2


async def test_more_than_can_be_kept_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshnode.cache.flight.CHARACTERS_MAX", 10)
    stage = Stage(*[Piece(at, (at,), "word") for at in range(9)])
    async with in_the_air(stage):
        with pytest.raises(Interrupted, match="10 characters"):
            await stage.hear([])
    assert stage.running == 0


async def test_flights_end_with_the_node_and_say_so() -> None:
    stage = Stage(*WHOLE)
    async with trio.open_nursery() as outer:

        async def hear() -> None:
            with pytest.raises(Interrupted):
                await stage.hear([])

        async with in_the_air(stage):
            outer.start_soon(hear)
            await trio.sleep(1.5)
    assert not stage.flights.can_start
