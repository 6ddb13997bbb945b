"""Asking over real links: the answer, the place that is kept, what takes it, and what ends it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import Busy
from meshnode.net.link import Link
from meshnode.routing import admission
from meshnode.serve.admit import Admission
from meshnode.serve.choose import Chooser
from meshnode.serve.inbound import LIFE_EVERY_S, Inbound
from meshnode.serve.local import Bench
from meshnode.serve.probing import ANSWER_WITHIN_S, Prober
from meshnode.serve.remote import run_on_link
from meshnode.serve.scopes import Scopes
from meshnode.terms import Candidate, End, Job, Progress, Sampling, Turn
from meshwire import inner, messages
from meshwire.numbers import ResetCode
from tests.net.hubs import open_world
from tests.routing.offers import job, offer

CARD = scripted_card(slots=1)
JOB = msgspec.structs.replace(job(), turns=(Turn(role="user", content="hello"),))
IN_LINE = 4


class Worker:
    """A node with one engine, and how others reach it."""

    def __init__(self, link: Link, engine: ScriptedEngine, bench: Bench, number: int) -> None:
        self.link = link
        self.engine = engine
        self.bench = bench
        self.candidate = offer(number, model=CARD)

    async def probe(self, digest: bytes = CARD.digest) -> inner.Answer | inner.Fail:
        stream = await self.link.open(messages.Open("ask"))
        await stream.send_message(inner.Probe(digest, 100, 20))
        with trio.fail_after(5):
            message = await stream.receive_message()
        assert isinstance(message, inner.Answer | inner.Fail)
        return message


class Stage:
    """A node without a model, which chooses between workers."""

    def __init__(self, workers: list[Worker], hung: list[Candidate]) -> None:
        self.workers = workers
        self.hung = hung
        self.bench = Bench((), Scopes(b"own"))
        self.choose = Chooser(
            b"\0" * 20, self.bench, random.Random(1), self.offers, dict, self.look_up, reach=self.reach
        )

    def offers(self) -> list[Candidate]:
        return [*(worker.candidate for worker in self.workers), *self.hung]

    async def look_up(self, family: str) -> None:
        raise AssertionError

    async def reach(self, candidate: Candidate) -> Link:
        for worker in self.workers:
            if worker.candidate.node == candidate.node:
                return worker.link
        await trio.sleep_forever()
        raise AssertionError

    async def choose_for(self, name: str) -> Candidate:
        return (await self.choose(named(name)))[0]


def named(name: str, tokens: int = 0) -> Job:
    wish = msgspec.structs.replace(JOB.wish, model=CARD.name)
    return msgspec.structs.replace(JOB, id=name, wish=wish, sampling=Sampling(max_tokens=tokens))


def patient(name: str) -> Job:
    """A long one that may wait for its turn."""
    return msgspec.structs.replace(named(name, 1500), deadline_ms=600_000)


@asynccontextmanager
async def playing(count: int = 2, hung: int = 0) -> AsyncIterator[Stage]:
    async with open_world() as world, trio.open_nursery() as nursery:
        names = [f"w{number}" for number in range(count)]
        workers = []
        for number, name in enumerate(names, start=1):
            a, b = await world.line(f"asker{number}", name)
            engine = ScriptedEngine(CARD, answer_tokens=50)
            bench = Bench((engine,), Scopes(b"test"))
            inbound = Inbound(Admission(64), bench, lambda _job: CARD, own=b.identity.node)
            b.on_ask = inbound.serve  # type: ignore[method-assign]
            await nursery.start(engine.serve)
            await nursery.start(inbound.run)
            workers.append(Worker(a.up[0], engine, bench, number))
        stage = Stage(workers, [offer(100 + number, model=CARD) for number in range(hung)])
        await nursery.start(stage.choose.run)
        await trio.sleep(0.1)
        yield stage
        nursery.cancel_scope.cancel()


async def run(stage: Stage, name: str, tokens: int = 3) -> bytes:
    """Who served a whole request."""
    job_ = named(name, tokens)
    candidate = (await stage.choose(job_))[0]
    held = stage.choose.held(candidate, job_)
    link = held.link if held is not None else await stage.reach(candidate)
    async with run_on_link(link, job_, None, held.stream if held is not None else None) as pieces:
        items = [item async for item in pieces]
    assert isinstance(items[-1], End)
    return candidate.node


async def test_the_one_that_is_idle_is_taken_whatever_gossip_says() -> None:
    async with playing() as stage:
        busy, idle = stage.workers
        busy.candidate = offer(1, model=CARD, rtt_ms=1.0)
        idle.candidate = offer(2, model=CARD, in_flight=3, queued_prefill=5000, queued_decode=1500)
        async with busy.bench.run(CARD.digest, named("long", 1500), b"other"):
            assert await run(stage, "1") == idle.candidate.node
        assert not any(worker.engine.load.in_flight for worker in stage.workers)


async def test_a_place_counts_for_others_until_the_ask_takes_it_or_its_stream_ends() -> None:
    async with playing(1) as stage:
        (worker,) = stage.workers
        stream = await worker.link.open(messages.Open("ask"))
        await stream.send_message(inner.Probe(CARD.digest, 100, 20))
        answer = await stream.receive_message()
        assert isinstance(answer, inner.Answer)
        assert (answer.in_flight, answer.accepting, answer.held_ms >= 500) == (0, True, True)
        assert worker.bench.kept_for_others(CARD.digest, b"somebody else") == 1
        assert worker.bench.kept_for_others(CARD.digest, worker.link.node) == 0
        stream.reset(ResetCode.CANCEL)
        await trio.sleep(0.1)
        assert worker.bench.kept_for_others(CARD.digest, b"somebody else") == 0


async def test_a_place_ends_with_its_time() -> None:
    async with playing(1) as stage:
        (worker,) = stage.workers
        await worker.probe()
        assert worker.bench.kept_for_others(CARD.digest, b"x") == 1
        await trio.sleep(0.6)
        assert worker.bench.kept_for_others(CARD.digest, b"x") == 0


async def test_the_last_place_is_kept_from_others_and_never_from_the_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "CLAIMS_MAX", IN_LINE)
    async with playing(1) as stage, trio.open_nursery() as nursery:
        (worker,) = stage.workers

        async def hold(name: str) -> None:
            async with worker.bench.run(CARD.digest, patient(name), b"other", others=True):
                await trio.sleep_forever()

        for number in range(IN_LINE):
            nursery.start_soon(hold, str(number))
        await trio.sleep(0.01)
        answer = await worker.probe()
        assert isinstance(answer, inner.Answer)
        assert answer.accepting
        assert (answer.in_flight, answer.first_token_ms > 0) == (IN_LINE, True)
        with pytest.raises(Busy):
            async with worker.bench.run(CARD.digest, named("stranger"), b"other", others=True):
                pass
        nursery.cancel_scope.cancel()


async def test_who_is_full_says_so_and_is_the_last_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "CLAIMS_MAX", IN_LINE)
    async with playing(2) as stage, trio.open_nursery() as nursery:
        full, free = stage.workers
        full.candidate = offer(1, model=CARD, rtt_ms=1.0)

        async def hold(name: str) -> None:
            async with full.bench.run(CARD.digest, patient(name), b"other", others=True):
                await trio.sleep_forever()

        for number in range(1 + IN_LINE):
            nursery.start_soon(hold, str(number))
        await trio.sleep(0.01)
        assert [one.node for one in await stage.choose(named("1"))] == [
            free.candidate.node,
            full.candidate.node,
        ]
        nursery.cancel_scope.cancel()


async def test_who_cannot_be_asked_is_not_waited_for_long_and_fails_in_the_end() -> None:
    async with playing(1, hung=1) as stage:
        (worker,) = stage.workers
        for number in range(3):
            began = trio.current_time()
            assert await run(stage, str(number)) == worker.candidate.node
            assert trio.current_time() - began < 5.0
        await trio.sleep(ANSWER_WITHIN_S)
        hung = stage.hung[0]
        assert not stage.choose.router.breakers.lets_through((hung.node, CARD.digest), trio.current_time())


async def test_weights_that_are_not_there_any_more() -> None:
    async with playing(1) as stage:
        answer = await stage.workers[0].probe(b"?" * 32)
        assert isinstance(answer, inner.Fail)
        assert answer.code == "model_not_found"


async def test_nothing_is_held_of_those_that_were_not_chosen() -> None:
    async with playing(3) as stage:
        await run(stage, "1")
        await trio.sleep(0.05)
        kept = [worker.bench.kept_for_others(CARD.digest, b"x") for worker in stage.workers]
        assert kept == [0, 0, 0]
        assert not any(worker.link.busy for worker in stage.workers)


async def test_a_decision_that_nobody_follows_holds_nothing_for_long() -> None:
    async with playing(3) as stage:
        await stage.choose_for("1")
        assert any(worker.bench.kept_for_others(CARD.digest, b"x") for worker in stage.workers)
        await trio.sleep(1.0)
        assert not any(worker.link.busy for worker in stage.workers)


async def test_who_waits_for_a_slot_hears_that_the_engine_works() -> None:
    async with playing(1) as stage:
        (worker,) = stage.workers
        worker.engine.answer_tokens = 1500

        async def answer() -> None:
            async with worker.bench.run(CARD.digest, named("long"), b"other") as pieces:
                async for _ in pieces:
                    pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await trio.sleep(1.0)
            async with run_on_link(worker.link, named("next", 1)) as pieces:
                with trio.fail_after(3 * LIFE_EVERY_S):
                    assert isinstance(await anext(pieces), Progress)
            nursery.cancel_scope.cancel()


async def test_without_a_task_for_it_nobody_is_asked() -> None:
    async with playing(2) as stage:
        alone = Prober(stage.reach, lambda _candidate, _reply: None)
        asking = stage.choose.router.asking(stage.choose.plan(named("1")), named("1"), trio.current_time())
        with trio.fail_after(0.01):
            await alone.ask(asking, named("1"))
        assert {one.candidate.node for one in asking.ordered()} == {one.node for one in stage.offers()}
