"""Choosing: what is told to wait, what is looked up, and what is refused at once."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import BadRequest, Busy, EngineFailed, MeshError, ModelNotFound, NoCandidate
from meshnode.routing.admission import TOKENS_PER_SLOT
from meshnode.routing.hedging import TIMES_LEAST, kind_of
from meshnode.routing.probing import Asking, Reply
from meshnode.serve.choose import NEWS_S, Chooser
from meshnode.serve.local import Bench
from meshnode.serve.probing import Prober
from meshnode.serve.scopes import Scopes
from meshnode.terms import Candidate, Job, Place, Privacy
from tests.routing.offers import card, job, offer

OWN = b"\0" * 20


class Stage:
    """One node with a scripted engine, and what it hears of the others."""

    def __init__(self, *, load_s: float = 0.0, slots: int = 1) -> None:
        self.engine = ScriptedEngine(scripted_card(slots=slots), load_s=load_s)
        self.bench = Bench((self.engine,), Scopes(b"test"), "smollm2:135m")
        self.remote: list[Candidate] = []
        self.found: list[Candidate] = []
        self.looked_up: list[str] = []
        self.vitals_seqs: dict[bytes, int] = {}
        self.choose = Chooser(
            OWN, self.bench, random.Random(1), lambda: self.remote, lambda: self.vitals_seqs, self.look_up
        )

    async def look_up(self, family: str) -> None:
        self.looked_up.append(family)
        self.remote += self.found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.engine.serve)
            yield
            nursery.cancel_scope.cancel()


async def test_a_ready_engine_is_chosen_without_asking_anybody() -> None:
    stage = Stage()
    async with stage.running():
        await trio.sleep(0.1)
        (chosen,) = await stage.choose(job())
    assert (chosen.node, chosen.path) == (OWN, ())
    assert stage.looked_up == []


async def test_a_model_that_is_loading_here_is_waited_for() -> None:
    stage = Stage(load_s=20.0)
    async with stage.running():
        (chosen,) = await stage.choose(job())
        assert trio.current_time() == pytest.approx(20.0)
        assert chosen.node == OWN


async def test_nobody_waits_for_a_model_that_is_not_the_one_being_loaded() -> None:
    stage = Stage(load_s=20.0)
    stage.found = [offer(1, model=card("qwen3:8b"))]
    async with stage.running():
        (chosen,) = await stage.choose(job(model="qwen3:8b"))
        assert chosen.node == offer(1).node
        with pytest.raises(ModelNotFound):
            await stage.choose(job(model="mistral:7b"))
        assert trio.current_time() < 1
    assert stage.looked_up == ["qwen3", "mistral"]


async def test_another_node_serves_while_the_model_loads_here() -> None:
    stage = Stage(load_s=20.0)
    stage.remote = [offer(1)]
    async with stage.running():
        (chosen,) = await stage.choose(job())
        assert chosen.node == offer(1).node
        with pytest.raises(MeshError):
            await stage.choose(job(model="smollm2:135m@q8", place=Place.MESH))
        assert trio.current_time() < 1


async def test_the_way_to_a_known_provider_is_waited_for_a_little() -> None:
    stage = Stage()
    stage.engine = ScriptedEngine()
    stage.bench = Bench((), Scopes(b"test"))
    stage.choose = Chooser(OWN, stage.bench, random.Random(1), lambda: stage.remote, dict, stage.look_up)
    stage.remote = [offer(1, reachable=False)]

    async def news() -> None:
        await trio.sleep(1.0)
        stage.remote = [offer(1)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(news)
        (chosen,) = await stage.choose(job())
    assert chosen.node == offer(1).node
    stage.remote = [offer(1, reachable=False)]
    before = trio.current_time()
    with pytest.raises(MeshError, match="no path"):
        await stage.choose(job())
    assert trio.current_time() - before == pytest.approx(NEWS_S, abs=0.1)


async def test_what_was_just_sent_counts_until_newer_vitals_come() -> None:
    stage = Stage()
    stage.bench.engines = ()
    stage.remote = [offer(1), offer(2, rtt_ms=11.0)]
    first = stage.choose.plan(job()).choices[0].candidate
    for _ in range(20):
        stage.choose.sent(first, job())
    assert stage.choose.plan(job()).choices[0].candidate != first
    stage.vitals_seqs = {first.node: 1}
    assert stage.choose.plan(job()).choices[0].candidate == first


async def test_a_peers_job_must_name_a_model_of_this_node() -> None:
    stage = Stage()
    async with stage.running():
        await trio.sleep(0.1)
        assert stage.choose.local(job()).name == "smollm2:135m"
        with pytest.raises(ModelNotFound):
            stage.choose.local(job(model="qwen3:8b"))
        with pytest.raises(BadRequest):
            stage.choose.local(job(model="auto"))


async def test_a_full_queue_is_told_of_and_not_chosen() -> None:
    stage = Stage(slots=1)
    digest = scripted_card().digest
    async with stage.running(), trio.open_nursery() as nursery:
        await trio.sleep(0.1)
        large = job(10**6, output_tokens=TOKENS_PER_SLOT // 8)
        for _ in range(1 + 7):
            nursery.start_soon(hold, stage.bench, digest, large)
        await trio.sleep(0.01)
        with pytest.raises(Busy) as caught:
            await stage.choose(job(10**6, place=Place.LOCAL, output_tokens=TOKENS_PER_SLOT // 8))
        assert caught.value.retry_after_s == pytest.approx(10.24, abs=0.1)
        with pytest.raises(Busy) as caught:
            await hold(stage.bench, digest, large)
        assert caught.value.retry_after_s == pytest.approx(10.24, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_weights_that_no_engine_runs_any_more() -> None:
    stage = Stage()
    async with stage.running():
        await trio.sleep(0.1)
        with pytest.raises(EngineFailed):
            await hold(stage.bench, b"other", job())
        stage.engine.fail("no memory")
        with pytest.raises(EngineFailed, match="no memory"):
            await hold(stage.bench, scripted_card().digest, job())


async def hold(bench: Bench, digest: bytes, held: Job) -> None:
    async with bench.run(digest, held, OWN):
        await trio.sleep_forever()


async def test_a_node_that_cannot_do_what_a_job_uses_is_not_chosen() -> None:
    stage = Stage()
    stage.engine = ScriptedEngine(scripted_card(features=()))
    stage.bench = Bench((stage.engine,), Scopes(b"test"))
    stage.choose = Chooser(OWN, stage.bench, random.Random(1), list, dict, stage.look_up)
    async with stage.running():
        await trio.sleep(0.1)
        assert await stage.choose(job())
        with pytest.raises(NoCandidate, match="lacks a feature"):
            await stage.choose(msgspec.structs.replace(job(), inputs=("text",)))


async def test_an_explanation_says_whether_a_second_node_would_be_asked() -> None:
    stage = Stage(load_s=20.0)
    stage.remote = [offer(1), offer(2)]
    public = job(privacy=Privacy.PUBLIC)
    assert stage.choose.explain(public).hedge == "off"
    hedging = stage.choose.router.hedging
    hedging.on = True
    assert stage.choose.explain(public).hedge == "too few of the like yet"
    assert stage.choose.explain(job()).hedge == "never for class private"
    for _ in range(TIMES_LEAST):
        hedging.began(kind_of(public, card()), 0.25)
    assert stage.choose.explain(public).hedge == "after 0.250 s without a token"
    hedging.tell(public, "sent to a second node after 0.250 s, which won")
    assert "won" in stage.choose.explain(public).hedge


async def test_who_asks_more_than_it_advertises_is_no_choice() -> None:
    stage = Stage(load_s=20.0)
    stage.remote = [offer(1), offer(2)]
    chooser = stage.choose

    async def dear(asking: Asking, _job: object) -> None:
        for choice in asking.asked:
            asking.answered(choice, Reply(0, 0, 0, price_usd=1.0))

    chooser.prober = Prober(None, None)  # type: ignore[arg-type]
    chooser.prober.ask = dear  # type: ignore[assignment]
    with pytest.raises(NoCandidate, match="more than it advertises"):
        await chooser(job())
