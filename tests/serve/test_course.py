"""Ways that fall silent or are lost in the middle of an answer: what is looked for, and who goes on."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from meshnode.errors import Busy, EngineFailed, Interrupted, MeshError, ModelNotFound, Unreachable, Yielded
from meshnode.serve.admit import Admission
from meshnode.serve.course import HEAD_START_S
from meshnode.serve.running import LinkLost, Silent
from meshnode.serve.trial import ATTEMPTS, LOOKS, MOVES
from meshnode.serve.walk import Walk
from meshnode.terms import Answer, Candidate, Emitted, End, FinishReason, Job, Piece, Usage
from tests.routing.offers import job, offer

END = End(FinishReason.STOP, Usage(1, 2))
SILENT, LOST = Silent("silent"), LinkLost("lost")
Step = Emitted | MeshError | float


def piece(index: int) -> Piece:
    return Piece(index, (index,), f" {index}")


class Run(AsyncIterator[Emitted]):
    """A run at another node: its script, when it is heard again, and how the way back to it goes."""

    def __init__(
        self,
        *script: Step,
        heard_s: float = 1e9,
        back: Sequence[Step] | None = None,
        back_s: float = 0.3,
    ) -> None:
        self.script = list(script)
        self.heard_s = heard_s
        self.back = back
        self.back_s = back_s
        self.left = False

    async def __anext__(self) -> Emitted:
        while True:
            await trio.lowlevel.checkpoint()
            step = self.script.pop(0)
            if isinstance(step, MeshError):
                raise step
            if not isinstance(step, float):
                return step
            await trio.sleep(step)

    async def heard(self) -> None:
        await trio.sleep(self.heard_s)

    async def reattach(self) -> None:
        await trio.sleep(self.back_s)
        if self.back is None:
            raise Unreachable("no way back")
        self.script, self.back = list(self.back), None


class Stage:
    """Candidate n plays run n; with `only_new` nobody is chosen twice."""

    def __init__(self, *runs: Run, only_new: bool = False) -> None:
        self.only_new = only_new
        self.runs = runs
        self.begun: list[int] = []
        self.jobs: list[Job] = []
        self.walk = Walk(Admission(9), self.choose, self.run_on, self.answer_for)

    async def choose(self, _job: Job) -> tuple[Candidate, ...]:
        await trio.sleep(0.01)
        left = [number for number in range(len(self.runs)) if not (self.only_new and number in self.begun)]
        return tuple(offer(number) for number in left)

    def answer_for(self, candidate: Candidate) -> Answer:
        name = str(candidate.node[0])
        return Answer(model="m", served_by=name, path=("me", name), rung="peer", trust="trusted", tier=2)

    @asynccontextmanager
    async def run_on(self, candidate: Candidate, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
        number = candidate.node[0]
        self.begun.append(number)
        self.jobs.append(job)
        try:
            yield self.runs[number]
        finally:
            self.runs[number].left = True

    async def ask(self) -> tuple[list[Emitted | MeshError], float]:
        """Everything that comes out of one request, a failure as its last item, and how long it took."""
        items: list[Emitted | MeshError] = []
        begun = trio.current_time()
        with trio.fail_after(300):
            async with self.walk.ask(job(200_000)) as running:
                try:
                    async for item in running.pieces:
                        items.append(item)  # noqa: PERF401 - what came before a failure counts
                except MeshError as error:
                    items.append(error)
        assert all(self.runs[number].left for number in self.begun)
        return items, trio.current_time() - begun


WHOLE = [piece(0), piece(1), END]


@pytest.mark.parametrize("failure", [SILENT, LOST], ids=["silent", "lost"])
async def test_the_way_back_to_the_same_run_comes_first(failure: MeshError) -> None:
    stage = Stage(Run(piece(0), failure, back=[piece(1), END], back_s=HEAD_START_S / 2), Run(piece(1), END))
    items, _ = await stage.ask()
    assert items == WHOLE
    assert stage.begun == [0]


@pytest.mark.parametrize("failure", [SILENT, LOST], ids=["silent", "lost"])
async def test_where_there_is_none_another_node_goes_on_at_once(failure: MeshError) -> None:
    stage = Stage(Run(piece(0), failure), Run(piece(1), END))
    items, took_s = await stage.ask()
    assert items == WHOLE
    assert stage.begun == [0, 1]
    assert stage.jobs[1].resume == (0,)
    assert took_s < HEAD_START_S


@pytest.mark.parametrize("failure", [SILENT, LOST], ids=["silent", "lost"])
async def test_a_way_back_that_takes_long_races_with_another_node(failure: MeshError) -> None:
    def runs(other_s: float) -> Stage:
        back = [piece(1), END]
        return Stage(Run(piece(0), failure, back=back, back_s=3.0), Run(other_s, piece(1), END))

    stage = runs(0.2)
    items, took_s = await stage.ask()
    assert items == WHOLE
    assert took_s == pytest.approx(HEAD_START_S + 0.2, abs=0.1)
    stage = runs(30.0)
    items, took_s = await stage.ask()
    assert items == WHOLE
    assert took_s == pytest.approx(3.0, abs=0.1)


async def test_a_run_that_is_heard_again_goes_on_and_the_other_is_left() -> None:
    stage = Stage(Run(piece(0), SILENT, 0.5, piece(1), END, heard_s=2.0), Run(10.0, piece(1), END))
    items, took_s = await stage.ask()
    assert items == WHOLE
    assert took_s == pytest.approx(2.5, abs=0.1)
    assert stage.begun == [0, 1]


async def test_a_run_that_another_went_on_for_is_left_at_once() -> None:
    stage = Stage(Run(piece(0), SILENT), Run(piece(1), 5.0, END))
    async with stage.walk.ask(job()) as running:
        assert [await anext(running.pieces) for _ in range(2)] == WHOLE[:2]
        assert [run.left for run in stage.runs] == [True, False]
        assert await anext(running.pieces) == END


async def test_a_silent_run_that_nobody_else_could_go_on_with_is_waited_for() -> None:
    silence: list[Step] = [1.0, SILENT] * 8
    stage = Stage(Run(piece(0), *silence, 1.0, piece(1), END))
    items, _ = await stage.ask()
    assert items == WHOLE
    assert stage.begun == [0]


async def test_a_silent_first_run_is_given_up_before_its_first_piece_too() -> None:
    stage = Stage(Run(SILENT, 50.0, piece(0), END), Run(piece(0), piece(1), END))
    items, took_s = await stage.ask()
    assert items == WHOLE
    assert took_s < HEAD_START_S
    assert stage.jobs[1].resume == ()


async def test_looking_elsewhere_is_bounded_and_leaves_an_attempt_for_a_loss() -> None:
    silence: list[Step] = [SILENT] * 20
    stage = Stage(Run(piece(0), *silence, piece(1), END), Run(*[Unreachable("no")] * 20))
    items, _ = await stage.ask()
    assert items == WHOLE
    assert stage.begun == [0] + [1] * LOOKS
    runs = [Run(piece(0), SILENT), *(Run(piece(number), *silence, LOST) for number in (1, 2, 3))]
    taking_over = Stage(*runs, only_new=True)
    items, _ = await taking_over.ask()
    assert items[:3] == [piece(0), piece(1), piece(2)]
    assert isinstance(items[3], Interrupted)
    assert taking_over.begun == [0, 1, 2]
    assert len(taking_over.begun) == ATTEMPTS


async def test_a_request_whose_client_leaves_while_it_looks_around_leaves_both() -> None:
    stage = Stage(Run(piece(0), SILENT), Run(100.0))
    async with stage.walk.ask(job()) as running:
        await anext(running.pieces)
        with trio.move_on_after(2):
            await anext(running.pieces)
        assert stage.begun == [0, 1]
    assert all(run.left for run in stage.runs)


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_every_token_comes_once_and_one_thing_ends_it(seed: int) -> None:
    rng = random.Random(seed)
    tokens = 12

    def script(first: int) -> list[Step]:
        """The rest of the answer from a token on, with pauses and failures strewn in."""
        steps: list[Step] = []
        for index in range(first, tokens):
            if rng.random() < 0.25:
                steps.append(rng.choice([SILENT, SILENT, LOST, Unreachable("gone"), rng.uniform(0, 3)]))
            steps.append(piece(index))
        return [*steps, END]

    class Luck(Run):
        """A run whose way back, silence and failures are drawn."""

        def __init__(self, first: int) -> None:
            back_s, heard_s = rng.uniform(0, 12), rng.choice([0.5, 3.0, 1e9])
            super().__init__(*script(first), heard_s=heard_s, back_s=back_s)
            self.next = first

        async def __anext__(self) -> Emitted:
            item = await super().__anext__()
            self.next += isinstance(item, Piece)
            return item

        async def reattach(self) -> None:
            self.back = script(self.next) if rng.random() < 0.5 else None
            await super().reattach()

    stage = Stage(Run(), Run(), Run())
    run_on = stage.run_on

    @asynccontextmanager
    async def begin(candidate: Candidate, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
        await trio.sleep(rng.uniform(0, 2))
        stage.runs = tuple(
            Luck(len(job.resume)) if number == candidate.node[0] else run
            for number, run in enumerate(stage.runs)
        )
        async with run_on(candidate, job) as run:
            yield run

    stage.walk = Walk(Admission(1), stage.choose, begin, stage.answer_for)
    for _ in range(3):
        items: list[Emitted | MeshError] = []
        begun = trio.current_time()
        try:
            async with stage.walk.ask(job(20_000)) as running:
                async for item in running.pieces:
                    items.append(item)  # noqa: PERF401 - what came before a failure counts
        except MeshError as error:
            items.append(error)
        assert trio.current_time() - begun <= 20.0
        assert items[:-1] == [piece(index) for index in range(len(items) - 1)]
        assert isinstance(items[-1], End | MeshError)
        assert len(items) == tokens + 1 or not isinstance(items[-1], End)


# --- A node that yields, which is no failure of it ---

YIELDED = Yielded("its owner needs it", retry_after_s=30.0)


async def test_an_answer_whose_node_yields_goes_on_elsewhere_at_once_and_from_its_tokens() -> None:
    stage = Stage(Run(piece(0), YIELDED, back=[]), Run(piece(1), END))
    items, took_s = await stage.ask()
    assert items == WHOLE
    assert stage.begun == [0, 1]
    assert stage.jobs[1].resume == (0,)
    assert took_s < 0.1
    assert stage.runs[0].back == []  # nobody tried to come back to it


async def test_nobody_looks_for_another_way_to_a_node_that_has_yielded() -> None:
    stage = Stage(Run(piece(0), *[YIELDED] * 20, back=[piece(1), END]))
    items, _ = await stage.ask()
    assert isinstance(items[-1], Interrupted)
    assert stage.runs[0].back == [piece(1), END]


async def test_yielding_is_no_attempt_that_failed() -> None:
    yields = [Run(piece(number), YIELDED) for number in range(ATTEMPTS + 2)]
    stage = Stage(*yields, Run(piece(ATTEMPTS + 2), LOST), Run(piece(ATTEMPTS + 3), END), only_new=True)
    items, _ = await stage.ask()
    assert items == [*(piece(number) for number in range(ATTEMPTS + 4)), END]


async def test_an_answer_moves_so_many_times_and_no_more() -> None:
    stage = Stage(*(Run(piece(number), YIELDED) for number in range(30)), only_new=True)
    items, _ = await stage.ask()
    assert len(stage.begun) == 1 + MOVES + ATTEMPTS - 1
    assert isinstance(items[-1], Interrupted)


@pytest.mark.parametrize("refusal", [Busy("full"), ModelNotFound("not any more")])
@pytest.mark.parametrize("end", [YIELDED, Unreachable("lost"), EngineFailed("crashed")])
async def test_a_node_that_refuses_to_go_on_does_not_end_the_answer(
    refusal: MeshError, end: MeshError
) -> None:
    stage = Stage(Run(piece(0), end), Run(refusal), Run(piece(1), END), only_new=True)
    items, _ = await stage.ask()
    assert items == WHOLE
    assert stage.jobs[2].resume == (0,)
    refusing = Stage(Run(piece(0), end), *(Run(refusal) for _ in range(20)), only_new=True)
    items, _ = await refusing.ask()
    assert isinstance(items[-1], Interrupted)


async def test_a_node_that_yields_before_it_has_begun_is_only_the_first_choice() -> None:
    stage = Stage(Run(YIELDED), Run(piece(0), piece(1), END))
    items, _ = await stage.ask()
    assert items == WHOLE
