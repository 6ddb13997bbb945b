"""The step before choosing, as a play: what is remembered, shared, learnt, and what passes by."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from meshnode.cache.key import Keys
from meshnode.errors import Busy, DeadlineExceeded
from meshnode.seams import Seams, inline
from meshnode.serve.recall import Recall, Vectors
from meshnode.serve.running import Running
from meshnode.state.answers import ANSWERS_FILE, AnswerStore
from meshnode.terms import CacheMode, Emitted, End, Job, Piece, Privacy, Sampling
from tests.cache.small_cache import Words, answer, asked, said

SEMANTIC = CacheMode.SEMANTIC
QUESTION, LIKE = "How do I change my password?", "Hi, how do i chnage my password"
FIXED_MS = 1_700_000_000_000


class Fixed(random.Random):
    """Draws one number for ever: 0.99 never explores a calm entry, 0.0 always does."""

    def __init__(self, drawn: float) -> None:
        super().__init__(1)
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


class Stage:
    """A recall, and an engine that says `texts` one after the other, a second for each piece."""

    def __init__(
        self, home: Path, *, ceiling: CacheMode = SEMANTIC, drawn: float = 0.99, **facts: Any
    ) -> None:
        self.rng = Fixed(drawn)
        seams = Seams(wall=lambda: FIXED_MS / 1000 + trio.current_time(), rng=self.rng, blocking=inline)
        self.store = AnswerStore(home, inline, bytes_max=1 << 20, kept_ms=3_600_000)
        self.recall = Recall(ceiling, self.store, Words(), seams, lambda: "a#1", **facts)
        self.said: list[list[Emitted]] = []
        self.jobs: list[Job] = []
        self.running = 0
        self.refusal: Exception | None = None

    @asynccontextmanager
    async def fresh(self, job: Job) -> AsyncIterator[Running]:
        self.jobs.append(job)
        if self.refusal is not None:
            raise self.refusal
        self.running += 1
        try:
            yield Running(answer(), self.play(said("It is", f" so, {len(self.jobs)}.")))
        finally:
            self.running -= 1

    async def play(self, items: list[Emitted]) -> AsyncIterator[Emitted]:
        for item in items:
            await trio.sleep(1)
            yield item

    async def ask(self, job: Job) -> tuple[str, str]:
        """How it was found and what was said."""
        async with self.recall.answer(job, self.fresh) as running:
            items = [item async for item in running.pieces]
        assert isinstance(items[-1], End)
        await trio.testing.wait_all_tasks_blocked()
        return running.answer.cache, "".join(item.text for item in items if isinstance(item, Piece))


@asynccontextmanager
async def playing(stage: Stage) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await nursery.start(stage.recall.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def test_the_same_request_is_answered_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with playing(stage):
        assert await stage.ask(asked()) == ("", "It is so, 1.")
        assert await stage.ask(asked()) == ("exact", "It is so, 1.")
        async with stage.recall.answer(asked(), stage.fresh) as running:
            assert (running.answer.path, running.answer.rung, running.answer.attempts) == (
                ("a#1",),
                "local",
                0,
            )
            assert running.answer.served_by == "b"
    assert len(stage.jobs) == 1


@pytest.mark.parametrize(
    "other",
    [
        asked(tenant=b"other"),
        asked(privacy=Privacy.PUBLIC),
        asked(min_tier=3),
        asked(cache=CacheMode.OFF),
    ],
)
async def test_nobody_else_and_nothing_else_is_answered_with_it(tmp_path: Path, other: Job) -> None:
    stage = Stage(tmp_path)
    async with playing(stage):
        await stage.ask(asked())
        assert (await stage.ask(other))[0] == ""


@pytest.mark.parametrize(
    "job",
    [
        asked(privacy=Privacy.SENSITIVE),
        asked(privacy=Privacy.LOCAL),
        asked(sampling=Sampling(temperature=0.5)),
    ],
)
async def test_what_is_never_kept_leaves_nothing_on_the_disk_and_is_never_shared(
    tmp_path: Path, job: Job
) -> None:
    stage = Stage(tmp_path)
    async with playing(stage), trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask, job)
        nursery.start_soon(stage.ask, job)
    assert len(stage.jobs) == 2
    assert not (tmp_path / ANSWERS_FILE).exists()


async def test_a_hundred_at_once_are_one_run_and_then_a_kept_answer(tmp_path: Path) -> None:
    stage, found = Stage(tmp_path), list[tuple[str, str]]()

    async def ask() -> None:
        found.append(await stage.ask(asked()))

    async with playing(stage):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
        assert await stage.ask(asked()) == ("exact", "It is so, 1.")
    assert sorted(found) == [("", "It is so, 1.")] + [("flight", "It is so, 1.")] * 99
    assert len(stage.jobs) == 1


async def test_the_first_ones_leaving_harms_nobody_and_the_lasts_ends_the_run(tmp_path: Path) -> None:
    stage, found = Stage(tmp_path), list[tuple[str, str]]()

    async def ask() -> None:
        found.append(await stage.ask(asked()))

    async with playing(stage):
        async with trio.open_nursery() as nursery, stage.recall.answer(asked(), stage.fresh) as running:
            nursery.start_soon(ask)
            assert await anext(running.pieces) == said("It is")[0]
        assert found == [("flight", "It is so, 1.")]
        async with stage.recall.answer(asked("Another?"), stage.fresh) as running:
            await anext(running.pieces)
            assert stage.running == 1
        await trio.testing.wait_all_tasks_blocked()
        assert stage.running == 0


async def test_each_keeps_its_own_deadline(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    hasty = asked(facts={"deadline_ms": 1500})
    async with playing(stage), trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask, asked())
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(DeadlineExceeded, match=r"1\.5 s"):
            await stage.ask(hasty)
    assert len(stage.jobs) == 1


async def test_a_refusal_is_not_remembered(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.refusal = Busy("full")
    async with playing(stage):
        with pytest.raises(Busy):
            await stage.ask(asked())
        stage.refusal = None
        assert (await stage.ask(asked()))[0] == ""


async def test_a_like_question_is_answered_only_where_it_was_wished_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with playing(stage):
        await stage.ask(asked(QUESTION))
        assert (await stage.ask(asked(LIKE, cache=CacheMode.EXACT)))[0] == ""
        async with stage.recall.answer(
            asked("how do i change my password", cache=SEMANTIC), stage.fresh
        ) as run:
            assert run.answer.cache == "semantic"
            assert 0.94 <= run.answer.similarity < 1
        assert (await stage.ask(asked(QUESTION.lower(), cache=SEMANTIC, privacy=Privacy.PUBLIC)))[0] == ""
        assert (await stage.ask(asked(QUESTION.lower(), cache=SEMANTIC, tenant=b"other")))[0] == ""


async def test_the_nodes_ceiling_holds_against_any_wish(tmp_path: Path) -> None:
    stage = Stage(tmp_path, ceiling=CacheMode.EXACT)
    async with playing(stage):
        await stage.ask(asked(QUESTION))
        assert (await stage.ask(asked(QUESTION.lower(), cache=SEMANTIC)))[0] == ""


async def test_a_kept_answer_is_checked_now_and_then_and_a_wrong_one_is_asked_about_more(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, drawn=0.0)
    async with playing(stage):
        await stage.ask(asked(QUESTION))
        assert await stage.ask(asked(LIKE, cache=SEMANTIC)) == ("", "It is so, 2.")  # another number: wrong
        assert stage.recall.tallies.of(b"").wrong == 1
        stage.rng.drawn = (
            0.75  # beyond what is explored without a label, not beyond what one wrong label needs
        )
        assert (await stage.ask(asked(LIKE + " please", cache=SEMANTIC)))[0] == ""
    fresh = Stage(tmp_path / "other", drawn=0.75)
    async with playing(fresh):
        await fresh.ask(asked(QUESTION))
        assert (await fresh.ask(asked(LIKE, cache=SEMANTIC)))[0] == "semantic"


@pytest.mark.parametrize(
    ("vectors", "found"),
    [(((1.0, 0.0), (1.0, 0.1)), "semantic"), (((1.0, 0.0), (0.0, 1.0)), ""), (None, "semantic")],
)
async def test_an_embedder_may_refuse_other_words(
    tmp_path: Path, vectors: Vectors | None, found: str
) -> None:
    heard: list[tuple[str, ...]] = []

    async def embed(texts: tuple[str, ...]) -> Vectors | None:
        heard.append(texts)
        return vectors

    stage = Stage(tmp_path, embed=embed)
    async with playing(stage):
        await stage.ask(asked("Is it a big cat?"))
        assert (await stage.ask(asked("Is it a large cat?", cache=SEMANTIC)))[0] == found
    assert heard == [("Is it a large cat?", "Is it a big cat?")]


async def test_a_cache_that_cannot_be_read_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / ANSWERS_FILE).write_bytes(b"no database" * 100)
    stage = Stage(tmp_path)
    async with playing(stage):
        assert await stage.ask(asked(cache=SEMANTIC)) == ("", "It is so, 1.")
        assert await stage.ask(asked(cache=SEMANTIC)) == ("", "It is so, 2.")


async def test_before_the_node_lives_every_request_runs_by_itself(tmp_path: Path) -> None:
    stage = Stage(tmp_path, keys=Keys(b"1"))
    assert (await stage.ask(asked()))[0] == ""
    assert (await stage.ask(asked()))[0] == ""


async def test_an_answer_that_is_over_and_being_kept_is_a_kept_one_already(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with playing(stage), stage.recall.answer(asked(), stage.fresh) as running:
        async for _ in running.pieces:
            pass
        async with stage.recall.answer(asked(), stage.fresh) as again:
            assert again.answer.cache == "exact"
    assert len(stage.jobs) == 1


async def cost(stage: Stage, costs: list[int]) -> None:
    """Ask, and put down what that cost."""
    async with stage.recall.answer(asked(), priced(stage)) as running:
        *_, end = [item async for item in running.pieces]
    assert isinstance(end, End)
    costs.append(end.usage.cost_nusd)


def priced(stage: Stage) -> Any:
    """The stage's runs, each at a price."""

    @asynccontextmanager
    async def fresh(job: Job) -> AsyncIterator[Running]:
        async with stage.fresh(job) as running:
            yield Running(running.answer, charged(running.pieces))

    return fresh


async def charged(pieces: AsyncIterator[Emitted]) -> AsyncIterator[Emitted]:
    async for item in pieces:
        if isinstance(item, End):
            usage = msgspec.structs.replace(item.usage, cost_nusd=500)
            yield msgspec.structs.replace(item, usage=usage)
        else:
            yield item


async def test_what_was_computed_once_is_paid_for_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    costs: list[int] = []
    async with playing(stage), trio.open_nursery() as together:
        for _ in range(3):
            together.start_soon(cost, stage, costs)
            await trio.sleep(0.1)
    assert sorted(costs) == [0, 0, 500]
    async with playing(stage):
        await cost(stage, costs)
    assert costs[-1] == 0
    assert len(stage.jobs) == 1
