"""The walk as a play: candidates that answer, fail, hang or break off, and the one terminal event that comes out."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import pytest
import trio

from meshnode.errors import (
    BadRequest,
    Busy,
    ContextExceeded,
    DeadlineExceeded,
    EngineFailed,
    Interrupted,
    MeshError,
    ModelNotFound,
    NoCandidate,
    Unreachable,
)
from meshnode.routing.retries import FLOOR, WINDOW_S
from meshnode.serve.admit import Admission
from meshnode.serve.walk import SILENCE_S, Walk
from meshnode.terms import (
    Answer,
    Candidate,
    Emitted,
    End,
    FinishReason,
    Job,
    Piece,
    Progress,
    Usage,
    Vector,
)
from tests.routing.offers import job, offer

END = End(FinishReason.STOP, Usage(1, 2))
READ = Progress(1, 2)
Step = Emitted | MeshError | float


def piece(index: int) -> Piece:
    return Piece(index, (index,), f" {index}")


class Stage:
    """Candidate n plays `scripts[n]`: it emits, raises, or pauses for so many seconds."""

    def __init__(self, *scripts: Sequence[Step], choose_s: float = 0.0, most: int = 9) -> None:
        self.scripts = scripts
        self.choose_s = choose_s
        self.refusal: MeshError | None = None
        self.jobs: list[Job] = []
        self.running = 0
        self.admission = Admission(most)
        self.walk = Walk(self.admission, self.choose, self.run_on, self.answer_for)

    async def choose(self, job: Job) -> tuple[Candidate, ...]:
        await trio.sleep(self.choose_s)
        if self.refusal is not None:
            raise self.refusal
        return tuple(offer(number) for number in range(len(self.scripts)))

    def answer_for(self, candidate: Candidate) -> Answer:
        name = str(candidate.node[0])
        return Answer(model="m", served_by=name, path=("me", name), rung="peer", trust="trusted", tier=2)

    @asynccontextmanager
    async def run_on(self, candidate: Candidate, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
        self.jobs.append(job)
        self.running += 1
        try:
            async with aclosing(self.play(self.scripts[candidate.node[0]])) as pieces:
                yield pieces
        finally:
            self.running -= 1

    async def play(self, steps: Sequence[Step]) -> AsyncGenerator[Emitted, None]:
        for step in steps:
            await trio.lowlevel.checkpoint()
            if isinstance(step, MeshError):
                raise step
            if isinstance(step, float):
                await trio.sleep(step)
            else:
                yield step

    async def ask(self, deadline_ms: int = 60_000) -> tuple[Answer, list[Emitted | MeshError]]:
        """Everything that comes out of one request, a failure as its last item."""
        items: list[Emitted | MeshError] = []
        async with self.walk.ask(job(deadline_ms)) as running:
            try:
                async for item in running.pieces:
                    items.append(item)  # noqa: PERF401 - what came before a failure counts
            except MeshError as error:
                items.append(error)
        return running.answer, items


async def test_pieces_come_out_as_they_are_made_and_the_place_is_free_again() -> None:
    stage = Stage([piece(0), piece(1), END])
    answer, items = await stage.ask()
    assert items == [piece(0), piece(1), END]
    assert (answer.served_by, answer.attempts) == ("0", 1)
    assert (stage.running, stage.admission.taken) == (0, 0)


@pytest.mark.parametrize("kind", [Busy, Unreachable, EngineFailed, ContextExceeded, ModelNotFound])
async def test_before_the_first_piece_the_next_candidate_is_tried(kind: type[MeshError]) -> None:
    stage = Stage([kind("no")], [READ, kind("nor here")], [piece(0), END])
    answer, items = await stage.ask()
    assert items == [piece(0), END]
    assert (answer.served_by, answer.attempts) == ("2", 3)


async def test_three_attempts_are_all() -> None:
    stage = Stage([Unreachable("1")], [Unreachable("2")], [Unreachable("3")], [piece(0), END])
    with pytest.raises(Unreachable, match="3"):
        await stage.ask()
    assert len(stage.jobs) == 3


async def test_a_request_at_fault_is_not_tried_elsewhere() -> None:
    stage = Stage([BadRequest("no")], [piece(0), END])
    with pytest.raises(BadRequest):
        await stage.ask()
    assert len(stage.jobs) == 1


@pytest.mark.parametrize("kind", [Unreachable, EngineFailed, Interrupted])
async def test_an_answer_that_broke_off_goes_on_elsewhere_from_its_tokens(kind: type[MeshError]) -> None:
    stage = Stage([piece(0), piece(1), kind("gone")], [READ, piece(2), END, piece(3)])
    answer, items = await stage.ask()
    assert items == [piece(0), piece(1), READ, piece(2), END]
    assert answer.served_by == "0"  # who began it
    assert [one.resume for one in stage.jobs] == [(), (0, 1)]
    assert stage.jobs[1].wish.model == f"sha256:{offer(0).card.digest.hex()}"
    assert stage.running == 0


async def test_it_goes_on_where_it_broke_off_when_there_is_nobody_else() -> None:
    stage = Breaking([[piece(0), EngineFailed("crashed")], [Unreachable("not yet")], [piece(1), END]])
    _, items = await stage.ask()
    assert items == [piece(0), piece(1), END]


async def test_it_breaks_off_for_good_with_one_error_at_the_third_loss() -> None:
    stage = Breaking([[piece(number), Unreachable(f"loss {number}")] for number in range(9)])
    _, items = await stage.ask()
    assert items[:-1] == [piece(0), piece(1), piece(2)]
    assert isinstance(items[-1], Interrupted)
    assert "loss 2" in str(items[-1])
    assert stage.running == 0


async def test_the_deadline_counts_while_a_place_to_go_on_is_looked_for() -> None:
    stage = Breaking([[piece(0), Unreachable("gone")], [30.0, piece(1), END]])
    begun = trio.current_time()
    _, items = await stage.ask(deadline_ms=2000)
    assert [type(item) for item in items] == [Piece, DeadlineExceeded]
    assert trio.current_time() - begun == pytest.approx(2.0)


@pytest.mark.parametrize(
    "told",
    [Piece(0, (), "no ids"), Piece(3, (3,), "a gap"), Vector(0, b"")],
    ids=["no ids", "a gap", "vector"],
)
async def test_an_answer_whose_tokens_are_not_known_ends_with_one_error(told: Emitted) -> None:
    stage = Stage([told, Unreachable("gone")], [piece(1), END])
    _, items = await stage.ask()
    assert items[0] == told
    assert [type(item) for item in items[1:]] == [Interrupted]
    assert len(stage.jobs) == 1


async def test_a_fault_of_the_request_is_told_in_the_middle_too() -> None:
    stage = Stage([piece(0), BadRequest("no such token")], [piece(1), END])
    _, items = await stage.ask()
    assert [type(item) for item in items] == [Piece, BadRequest]


async def test_a_client_that_waits_with_a_scope_of_its_own_outlives_a_loss() -> None:
    stage = Stage([piece(0), Unreachable("gone")], [piece(1), 0.5, piece(2), END])
    async with stage.walk.ask(job()) as running:
        items = []
        for _ in range(4):
            with trio.fail_after(2):
                items.append(await anext(running.pieces))
    assert items == [piece(0), piece(1), piece(2), END]


async def test_an_answer_that_just_stops_is_an_error() -> None:
    _, items = await Breaking([[Busy("full")], [piece(0)]] + [[]] * 9).ask()
    assert [type(item) for item in items] == [Piece, Interrupted]


async def test_an_end_is_the_end_whatever_follows() -> None:
    _, items = await Stage([piece(0), END, piece(1), EngineFailed("late"), 100.0]).ask(deadline_ms=1000)
    assert items == [piece(0), END]


async def test_progress_is_kept_back_while_another_place_may_still_serve() -> None:
    _, items = await Stage([READ, 0.5 * SILENCE_S, READ, SILENCE_S, READ, piece(0), END]).ask()
    assert items == [READ, piece(0), END]
    stage = Stage([2 * SILENCE_S, READ, Unreachable("gone")], [piece(0), END])
    _, items = await stage.ask()
    assert items == [
        READ,
        piece(0),
        END,
    ]  # its place has been told already, so it goes on with the same weights
    assert stage.jobs[1].wish.model == f"sha256:{offer(0).card.digest.hex()}"


@pytest.mark.parametrize("script", [[30.0], [0.2, piece(0), 30.0], [piece(0), END, 30.0]])
async def test_the_deadline_gives_one_terminal_event_in_time(script: list[Step]) -> None:
    stage = Stage(script)
    started = trio.current_time()
    try:
        _, items = await stage.ask(deadline_ms=1000)
    except DeadlineExceeded as error:
        items = [error]
    assert trio.current_time() - started == pytest.approx(1.0 if END not in script else 0.0)
    assert isinstance(items[-1], DeadlineExceeded | End)
    assert sum(isinstance(item, MeshError | End) for item in items) == 1
    assert stage.running == 0


async def test_the_deadline_counts_while_a_place_is_looked_for() -> None:
    stage = Stage([piece(0), END], choose_s=5.0)
    with pytest.raises(DeadlineExceeded):
        await stage.ask(deadline_ms=1000)
    assert stage.jobs == []
    stage.choose_s = 0.4
    await stage.ask(deadline_ms=1000)
    assert stage.jobs[0].deadline_ms == 600


async def test_a_slow_reader_hears_of_the_deadline_too() -> None:
    stage = Stage([piece(0), piece(1), piece(2), END])
    items: list[object] = []
    async with stage.walk.ask(job(1000)) as running:
        with pytest.raises(DeadlineExceeded):
            async for item in running.pieces:
                items.append(item)
                await trio.sleep(0.6)
    assert items == [piece(0), piece(1)]


async def test_a_client_that_leaves_cancels_the_run() -> None:
    stage = Stage([piece(0), 100.0, END])
    async with stage.walk.ask(job()) as running:
        await anext(running.pieces)
        assert stage.running == 1
    assert (stage.running, stage.admission.taken) == (0, 0)
    with trio.move_on_after(1):
        await stage.ask()
    assert (stage.running, stage.admission.taken) == (0, 0)


async def test_the_clients_own_error_comes_out_as_it_is() -> None:
    stage = Stage([piece(0), 100.0])

    async def fail() -> None:
        async with stage.walk.ask(job()):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await fail()
    assert stage.running == 0


async def test_a_refusal_to_choose_comes_out_on_entering() -> None:
    stage = Stage([piece(0), END])
    stage.refusal = NoCandidate("nobody")
    with pytest.raises(NoCandidate):
        await stage.ask()


async def test_one_request_too_many_is_busy_at_once() -> None:
    stage = Stage([piece(0), 10.0, END], most=1)
    async with stage.walk.ask(job()):
        with pytest.raises(Busy) as caught:
            await stage.ask()
        assert caught.value.retry_after_s
    await stage.ask()


class Breaking(Stage):
    """One candidate, which plays another script each time it is asked."""

    def __init__(self, lives: Sequence[Sequence[Step]]) -> None:
        super().__init__([])
        self.lives = lives

    async def choose(self, job: Job) -> tuple[Candidate, ...]:
        return await super().choose(job) * (2 if not self.jobs else 1)

    async def play(self, steps: Sequence[Step]) -> AsyncGenerator[Emitted, None]:
        async with aclosing(super().play(self.lives[len(self.jobs) - 1])) as played:
            async for item in played:
                yield item


class Returning(Stage):
    """One candidate that is out of reach at first, so many times."""

    def __init__(self, lost: int, *, gone_after: int = 9) -> None:
        super().__init__([piece(0), END])
        self.lost = lost
        self.choices: list[float] = []
        self.gone_after = gone_after

    async def choose(self, job: Job) -> tuple[Candidate, ...]:
        self.choices.append(trio.current_time())
        if len(self.choices) > self.gone_after:
            raise NoCandidate("nobody is left")
        return await super().choose(job)

    async def play(self, steps: Sequence[Step]) -> AsyncGenerator[Emitted, None]:
        lost = len(self.jobs) <= self.lost
        async with aclosing(super().play([Unreachable("the link is lost")] if lost else steps)) as played:
            async for item in played:
                yield item


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_candidate_whose_link_was_lost_is_chosen_again(lost: int) -> None:
    stage = Returning(lost)
    answer, items = await stage.ask()
    assert items == [piece(0), END]
    assert answer.attempts == lost + 1
    pauses = [later - earlier for earlier, later in pairwise(stage.choices)]
    assert 0.2 < sum(pauses) < 1.0  # a moment for it to come back


async def test_the_third_loss_is_the_last_and_says_what_was_lost() -> None:
    stage = Returning(9)
    with pytest.raises(Unreachable, match="link is lost"):
        await stage.ask()
    assert len(stage.jobs) == 3


async def test_who_finds_nobody_the_second_time_hears_of_the_loss() -> None:
    stage = Returning(9, gone_after=1)
    with pytest.raises(Unreachable, match="link is lost"):
        await stage.ask()
    assert len(stage.jobs) == 1


async def test_beyond_the_budget_nothing_is_tried_again() -> None:
    stage = Stage([Unreachable("gone")], [piece(0), END])
    for _ in range(FLOOR + 2):  # and a tenth of these
        answer, items = await stage.ask()
        assert (answer.served_by, answer.attempts, items[-1]) == ("1", 2, END)
    with pytest.raises(Unreachable, match="gone"):
        await stage.ask()
    await trio.sleep(WINDOW_S)
    assert (await stage.ask())[0].served_by == "1"
