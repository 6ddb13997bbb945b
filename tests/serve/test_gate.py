"""Jobs before an engine: whose turn it is, who is refused, who gives way, and that nothing is left behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import Busy, MeshError, Yielded
from meshnode.serve.admit import Admission
from meshnode.serve.gate import PAUSED_RETRY_S
from meshnode.serve.inbound import YIELD_S, Inbound
from meshnode.serve.local import Bench
from meshnode.serve.remote import run_on_link
from meshnode.serve.scopes import Scopes
from meshnode.terms import Emitted, End, Job, ModelCard, Openness, Piece, Privacy, Sampling, Turn
from tests.net.hubs import open_world
from tests.routing.offers import job

OWN, PEER, OTHER = b"o" * 20, b"p" * 20, b"q" * 20
TOKENS = 100  # one second


class Stage:
    """A bench with one scripted engine."""

    def __init__(self, slots: int = 2, *, owner_slots: int = 1) -> None:
        self.card: ModelCard = scripted_card(slots=slots)
        self.engine = ScriptedEngine(self.card, answer_tokens=TOKENS)
        self.bench = Bench((self.engine,), Scopes(b"test"), owner_slots=owner_slots)
        self.gate = self.bench.gate
        self.ended: list[tuple[str, float]] = []
        self.errors: dict[str, MeshError] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.engine.serve)
            await trio.sleep(0.01)
            yield nursery
            nursery.cancel_scope.cancel()

    async def ask(self, name: str, origin: bytes = PEER, **facts: object) -> None:
        """Run a job to its end and take note of when that was, or of what came instead."""
        asked = named(name, **facts)
        try:
            async with self.bench.run(self.card.digest, asked, origin, others=origin != OWN) as pieces:
                async for _ in pieces:
                    pass
        except MeshError as error:
            self.errors[name] = error
        self.ended.append((name, trio.current_time()))

    @property
    def order(self) -> list[str]:
        return [name for name, _ in self.ended]


def named(name: str, *, tokens: int = TOKENS, deadline_ms: int = 300_000, tag: bytes = b"") -> Job:
    return msgspec.structs.replace(
        job(deadline_ms),
        id=name,
        turns=(Turn(role="user", content="hello"),),
        sampling=Sampling(max_tokens=tokens),
        tenant_tag=tag,
    )


async def test_others_wait_while_a_slot_is_kept_for_the_owner() -> None:
    stage = Stage()
    async with stage.running() as nursery:
        for number in range(3):
            nursery.start_soon(stage.ask, f"peer {number}")
        await trio.sleep(0.1)
        assert stage.engine.load.in_flight == 1
        assert stage.gate.load(stage.engine).in_flight == 3
        begun = trio.current_time()
        await stage.ask("mine", OWN)
        assert trio.current_time() - begun == pytest.approx(1.0, abs=0.1)
        await trio.sleep(5)
    assert stage.errors == {}
    assert stage.gate.load(stage.engine).in_flight == 0


async def test_a_hundred_requests_of_one_do_not_keep_another_waiting() -> None:
    stage = Stage(slots=2)
    async with stage.running() as nursery:
        for number in range(100):
            nursery.start_soon(stage.ask, f"many {number}")
        await trio.sleep(0.1)
        for number in range(3):
            await stage.ask(f"few {number}", OTHER)
    ends = dict(stage.ended)
    # Each waits for what the credit of a round buys the other: five of these, and the one that runs.
    assert ends["few 0"] <= 7.2
    assert ends["few 2"] - ends["few 0"] <= 2 * 7.2


async def test_who_would_wait_too_long_is_told_at_once_and_when_to_come_back() -> None:
    stage = Stage(slots=1)
    async with stage.running() as nursery:
        for number in range(10):
            nursery.start_soon(stage.ask, f"peer {number}")
        await trio.sleep(0.1)
        begun = trio.current_time()
        await stage.ask("late", OTHER, deadline_ms=200)
        assert trio.current_time() == begun
        refusal = stage.errors["late"]
        assert isinstance(refusal, Busy)
        assert refusal.estimate_s is not None
        assert refusal.retry_after_s is not None
        await trio.sleep(refusal.retry_after_s + 0.05)
        await stage.ask("in time", OTHER, deadline_ms=200)
    assert "in time" not in stage.errors


async def test_who_gives_up_waiting_leaves_its_place() -> None:
    stage = Stage(slots=1)
    async with stage.running() as nursery:
        nursery.start_soon(stage.ask, "first")
        await trio.sleep(0.1)
        with trio.move_on_after(0.1):
            await stage.ask("impatient")
        assert stage.gate.load(stage.engine).in_flight == 1
        await stage.ask("second")
    assert stage.order == ["first", "second"]


async def test_the_owner_of_one_slot_has_it_and_the_other_is_told_to_go_on_elsewhere() -> None:
    stage = Stage(slots=1)
    async with stage.running() as nursery:
        nursery.start_soon(stage.ask, "peer")
        await trio.sleep(0.5)
        begun = trio.current_time()
        await stage.ask("mine", OWN)
        assert trio.current_time() - begun == pytest.approx(1.0, abs=0.1)
    assert isinstance(stage.errors["peer"], Yielded)
    assert stage.engine.finished_jobs == ["mine"]


async def test_closing_ends_others_work_that_runs_or_waits_and_leaves_the_owners() -> None:
    stage = Stage()
    async with stage.running() as nursery:
        for number in range(3):
            nursery.start_soon(stage.ask, f"peer {number}")
        nursery.start_soon(stage.ask, "mine", OWN)
        await trio.sleep(0.5)
        closed = trio.current_time()
        stage.gate.set_openness(Openness.PAUSED_FOR_REMOTE)
        await trio.sleep(0.01)
        assert {name for name, _ in stage.ended} == {f"peer {number}" for number in range(3)}
        assert all(at - closed < 0.01 for _, at in stage.ended)
        assert all(isinstance(error, Yielded) for error in stage.errors.values())
        await stage.ask("too late")
        assert isinstance(stage.errors["too late"], Busy)
        assert stage.errors["too late"].retry_after_s == PAUSED_RETRY_S
        stage.gate.set_openness(Openness.PAUSED)
        await stage.ask("mine too", OWN)
        assert "paused" in stage.errors["mine too"].message
        await trio.sleep(2)
        stage.gate.set_openness(Openness.ACCEPTING)
        await stage.ask("again")
    assert stage.engine.finished_jobs == ["mine", "again"]


async def test_a_long_line_is_told_of_as_deprioritised() -> None:
    stage = Stage(slots=1)
    async with stage.running() as nursery:
        assert stage.gate.openness is Openness.ACCEPTING
        for number in range(5):
            nursery.start_soon(stage.ask, f"peer {number}", PEER)
        await trio.sleep(0.1)
        assert stage.gate.openness is Openness.ACCEPTING
        for number in range(70):
            nursery.start_soon(stage.ask, f"more {number}", OTHER)
        await trio.sleep(0.1)
        assert stage.gate.openness is Openness.DEPRIORITISED


async def test_waits_are_those_of_the_model_that_is_meant() -> None:
    """An engine with two models, the first of which is slow: the second's figures are its own."""
    stage = Stage(slots=1)
    slow = msgspec.structs.replace(stage.card, digest=b"slow", prompt_tps=1.0, generate_tps=1.0)

    class Both(ScriptedEngine):
        cards = (slow, stage.card)  # type: ignore[assignment]

    engine = Both(stage.card, answer_tokens=TOKENS)
    stage.bench.add(engine)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await trio.sleep(0.01)
        async with stage.bench.run(stage.card.digest, named("first"), PEER, others=True):
            with pytest.raises(Busy) as caught:
                async with stage.bench.run(
                    stage.card.digest, named("late", deadline_ms=100), OTHER, others=True
                ):
                    pass
            assert caught.value.estimate_s == pytest.approx(1.0, abs=0.1)
        nursery.cancel_scope.cancel()


# --- Over a link ---


@asynccontextmanager
async def linked(stage: Stage) -> AsyncIterator[object]:
    """A link to a node with this bench."""
    inbound = Inbound(Admission(9), stage.bench, lambda _job: stage.card)
    async with open_world() as world, stage.running() as nursery:
        await nursery.start(inbound.run)
        a, b = await world.line("a", "b")
        b.on_ask = inbound.serve  # type: ignore[method-assign]
        yield a.up[0]


@pytest.mark.parametrize("privacy", [Privacy.PUBLIC, Privacy.PRIVATE, Privacy.SENSITIVE])
async def test_over_a_link_all_that_was_made_comes_before_the_word_to_go_on_elsewhere(
    privacy: Privacy,
) -> None:
    stage = Stage()
    moved = named("moved")
    moved = msgspec.structs.replace(moved, wish=msgspec.structs.replace(moved.wish, privacy=privacy))
    async with linked(stage) as link:
        came: list[Emitted] = []
        with pytest.raises(Yielded) as caught:
            async with run_on_link(link, moved) as pieces:  # type: ignore[arg-type]
                async for item in pieces:
                    came.append(item)
                    if isinstance(item, Piece) and item.first_index + len(item.ids) >= 30:
                        stage.gate.set_openness(Openness.PAUSED_FOR_REMOTE)
        written = [
            item.first_index + place
            for item in came
            if isinstance(item, Piece)
            for place in range(len(item.ids))
        ]
        assert written == [*range(len(written))]
        assert len(written) >= 30
        assert not any(isinstance(item, End) for item in came)
        assert "owner" in caught.value.message
        assert stage.engine.load.in_flight == 0
        with pytest.raises(Busy, match="no work for others"):
            async with run_on_link(link, named("refused")) as pieces:  # type: ignore[arg-type]
                await anext(pieces)


async def test_the_estimate_comes_over_the_link() -> None:
    stage = Stage(slots=1)
    async with linked(stage) as link, run_on_link(link, named("first")) as pieces:  # type: ignore[arg-type]
        await anext(pieces)
        with pytest.raises(Busy) as caught:
            async with run_on_link(link, named("late", deadline_ms=500)) as others:  # type: ignore[arg-type]
                await anext(others)
        assert caught.value.estimate_s == pytest.approx(1.0, abs=0.1)
        assert caught.value.retry_after_s == pytest.approx(0.5, abs=0.1)


def endless(slots: int = 2) -> Stage:
    """A stage whose answers are longer than what may lie on the way to somebody who does not read."""
    stage = Stage(slots)
    stage.engine.answer_tokens = 100_000
    card = msgspec.structs.replace(stage.card, context=1 << 20, generate_tps=10_000.0)
    stage.card = stage.engine._card = card
    return stage


async def test_a_run_whose_asker_does_not_read_ends_soon_too() -> None:
    stage = endless()
    async with linked(stage) as link, run_on_link(link, named("stuck", tokens=100_000)):  # type: ignore[arg-type]
        await trio.sleep(3)  # nothing is read: by now its writing waits for credit
        assert stage.engine.load.in_flight == 1
        stage.gate.set_openness(Openness.PAUSED_FOR_REMOTE)
        await trio.sleep(YIELD_S + 0.05)
        assert stage.engine.load.in_flight == 0


async def test_nor_does_it_keep_an_only_slot_from_the_owner() -> None:
    stage = endless(slots=1)
    async with linked(stage) as link, run_on_link(link, named("stuck", tokens=100_000)):  # type: ignore[arg-type]
        await trio.sleep(3)
        with trio.fail_after(YIELD_S + 0.1):
            await stage.ask("mine", OWN, tokens=10)
    assert stage.errors == {}
