"""What a worker keeps of an answer, who may come back for it, and what becomes of the run when nobody does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.errors import MeshError, Unreachable, from_code
from meshnode.net.link import Link, Stream
from meshnode.serve.admit import Admission
from meshnode.serve.inbound import Inbound
from meshnode.serve.local import Bench
from meshnode.serve.packing import pack_job
from meshnode.serve.remote import RemoteRun, request_of, run_on_link
from meshnode.serve.replay import Ring
from meshnode.serve.running import LinkLost
from meshnode.serve.scopes import Scopes
from meshnode.terms import Emitted, End, Job, Piece, Sampling
from meshwire import inner, messages
from meshwire.limits import REPLAY_BYTES, REPLAY_S, REPLAYS_PER_KEY
from meshwire.numbers import ResetCode
from meshwire.streams import FRAME_COST
from tests.net.hubs import Hub, World, open_world
from tests.serve.test_remote import JOB, named

TOKENS = 300  # three seconds


class Stage:
    """`b` works; `a` asks it, and can reach it over `c` too."""

    def __init__(self, world: World, hubs: list[Hub], engine: ScriptedEngine, inbound: Inbound) -> None:
        self.world = world
        self.a, self.b, self.c = hubs
        self.engine = engine
        self.inbound = inbound
        self.a_to_b: Link = self.a.up[0]

    async def another_way(self, _broken: Link) -> Link:
        return await self.a.circuits.reach((self.c.node, self.b.node))

    def lose(self) -> None:
        self.world.network.reset("a", "b")

    @asynccontextmanager
    async def running(
        self, count: int = 20, job: Job = JOB
    ) -> AsyncIterator[tuple[RemoteRun, list[Emitted]]]:
        """A run of which so many items have come."""
        async with run_on_link(self.a_to_b, job, self.another_way) as run:
            assert isinstance(run, RemoteRun)
            yield run, [await anext(run) for _ in range(count)]

    @property
    def kept(self) -> int:
        return len(self.inbound._deliveries)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    card = scripted_card(slots=32)
    engine = ScriptedEngine(card, answer_tokens=TOKENS)
    inbound = Inbound(Admission(64), Bench((engine,), Scopes(b"test")), lambda _job: card)
    async with open_world() as world, trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await nursery.start(inbound.run)
        hubs = [await world.hub(name) for name in ("a", "b", "c")]
        a, b, c = hubs
        b.on_ask = inbound.serve  # type: ignore[method-assign]
        for one, other in ((a, b), (a, c), (c, b)):
            await one.link_to(other)
        await trio.sleep(1)
        yield Stage(world, hubs, engine, inbound)
        nursery.cancel_scope.cancel()


def indexes(items: list[Emitted]) -> list[int]:
    return [item.first_index for item in items if isinstance(item, Piece)]


# --- Coming back ---


@pytest.mark.parametrize("away_s", [0.0, 1.0, 9.0], ids=["soon", "while it writes", "after its end"])
async def test_who_lost_the_link_gets_the_rest_and_nothing_is_computed_again(
    stage: Stage, away_s: float
) -> None:
    async with stage.running() as (run, came):
        stage.lose()
        with pytest.raises(LinkLost):
            while True:
                came.append(await anext(run))
        await trio.sleep(away_s)
        await run.reattach()
        came += [item async for item in run]
    assert indexes(came) == [*range(TOKENS)]
    assert isinstance(came[-1], End)
    assert stage.engine.finished_jobs == [JOB.id]
    assert stage.engine.cancelled_jobs == []


async def test_a_link_that_is_only_silent_is_left_the_same_way(stage: Stage) -> None:
    async with stage.running() as (run, came):
        stage.world.network.partition("a", "b")
        await run.reattach()
        came += [item async for item in run]
        assert indexes(came) == [*range(TOKENS)]
    stage.world.network.heal("a", "b")
    await trio.sleep(1)
    assert stage.engine.finished_jobs == [JOB.id]


async def test_it_can_be_lost_again_and_again(stage: Stage) -> None:
    async with stage.running() as (run, came):
        for _ in range(4):
            stage.lose()
            stage.world.network.reset("a", "c")
            await trio.sleep(0.1)
            await stage.a.link_to(stage.c)
            await trio.sleep(0.1)
            await run.reattach()
            came += [await anext(run) for _ in range(10)]
        came += [item async for item in run]
    assert indexes(came) == [*range(TOKENS)]
    assert stage.engine.finished_jobs == [JOB.id]


async def ask_back(link: Link, request: bytes, next_item: int) -> type[inner.Answer] | str:
    """What a node hears that asks to go on with an answer: an Answer, or the message of the refusal."""
    stream = await link.open(messages.Open("ask"))
    await stream.send_message(inner.Reattach(request, next_item), end=True)
    with trio.fail_after(5):
        message = await stream.receive_message()
    stream.reset(ResetCode.LINK_LOST)
    if isinstance(message, inner.Fail):
        return message.message
    assert isinstance(message, inner.Answer)
    return inner.Answer


async def test_nobody_but_its_asker_gets_an_answer(stage: Stage) -> None:
    async with stage.running(20):
        stage.lose()
        await trio.sleep(0.5)
        c_to_b = stage.c.switch.direct(stage.b.node)
        assert c_to_b is not None
        assert "Nothing of that answer" in await ask_back(c_to_b, request_of(JOB), 20)
        mine = await stage.another_way(stage.a_to_b)
        assert await ask_back(mine, request_of(JOB), 20) is inner.Answer


@pytest.mark.parametrize(("request_id", "item"), [(b"unknown", 0), (JOB.id.encode(), 10_000)])
async def test_what_is_not_kept_is_refused(stage: Stage, request_id: bytes, item: int) -> None:
    async with stage.running():
        way = await stage.another_way(stage.a_to_b)
        assert "Nothing of that answer" in await ask_back(way, request_id, item)


async def test_a_way_back_that_is_given_up_leaves_the_run_as_it_was(stage: Stage) -> None:
    async with stage.running() as (run, came):
        await stage.another_way(stage.a_to_b)
        stage.lose()
        stage.world.network.hold("b", "c", one_way=True)
        with pytest.raises(LinkLost):
            while True:
                came.append(await anext(run))
        with trio.move_on_after(2):
            await run.reattach()
        stage.world.network.release("b", "c")
        await trio.sleep(1)
        await run.reattach()
        came += [item async for item in run]
    assert indexes(came) == [*range(TOKENS)]
    assert stage.engine.finished_jobs == [JOB.id]


# --- Not coming back ---


async def test_a_cancel_frees_the_slot_at_once(stage: Stage) -> None:
    async with stage.running():
        assert stage.engine.load.in_flight == 1
    await trio.sleep(0.05)
    assert (stage.engine.load.in_flight, stage.kept) == (0, 0)
    assert stage.engine.cancelled_jobs == [JOB.id]


async def test_a_goodbye_frees_it_too(stage: Stage) -> None:
    async with stage.running():
        await stage.a_to_b.aclose()
        await trio.sleep(0.05)
        assert stage.kept == 0
    assert stage.engine.cancelled_jobs == [JOB.id]


async def test_a_run_whose_asker_does_not_come_back_ends(stage: Stage) -> None:
    stage.engine.answer_tokens = 1900
    async with stage.running():
        stage.lose()
        await trio.sleep(REPLAY_S - 0.5)
        assert stage.engine.load.in_flight == 1
        await trio.sleep(1)
        assert (stage.engine.load.in_flight, stage.kept) == (0, 0)


async def test_without_a_link_it_is_written_to_the_end_of_the_ring_only(stage: Stage) -> None:
    stage.engine.answer_tokens = 1900
    verbose = msgspec.structs.replace(JOB, sampling=Sampling(logprobs=True, top_logprobs=20))
    async with stage.running(20, verbose):
        stage.lose()
        await trio.sleep(5)
        (delivery,) = stage.inbound._deliveries.values()
        assert REPLAY_BYTES <= delivery._ring._bytes < REPLAY_BYTES + 4096
        left = stage.engine.load.queued_decode
        await trio.sleep(2)
        assert 0 < stage.engine.load.queued_decode == left


async def test_what_was_sent_is_kept_for_a_while_only(stage: Stage) -> None:
    async with stage.running() as (run, _):
        assert [item async for item in run]
    assert stage.kept == 1
    await trio.sleep(REPLAY_S + 1)
    assert stage.kept == 0


async def test_a_bounded_number_is_kept_and_the_finished_make_room(stage: Stage) -> None:
    async def some(count: int) -> list[Stream]:
        streams = []
        for number in range(count):
            stream = await stage.a_to_b.open(messages.Open("ask"))
            job = named(f"{len(stage.inbound._deliveries)} {number}")
            await stream.send_message(inner.Ask(pack_job(job)), end=True)
            streams.append(stream)
            await trio.sleep(0.05)
        return streams

    await some(REPLAYS_PER_KEY + 4)
    keeping = [one.keeps for one in stage.inbound._deliveries.values()]
    assert keeping == [True] * REPLAYS_PER_KEY + [False] * 4
    await trio.sleep(4)  # all are written
    await some(4)
    assert sum(one.keeps for one in stage.inbound._deliveries.values()) == REPLAYS_PER_KEY
    stage.lose()
    await trio.sleep(1)
    assert stage.engine.load.in_flight == 4


async def test_asking_again_under_the_same_name_ends_the_former_run(stage: Stage) -> None:
    async with stage.running():
        stage.lose()
        await trio.sleep(0.2)
        way = await stage.another_way(stage.a_to_b)
        async with run_on_link(way, JOB) as again:
            assert indexes([item async for item in again]) == [*range(TOKENS)]
    assert stage.engine.cancelled_jobs == [JOB.id]
    assert stage.engine.finished_jobs == [JOB.id]


async def test_an_error_is_kept_for_who_comes_back(stage: Stage) -> None:
    async with stage.running() as (run, _):
        stage.lose()
        stage.engine.crash_after(50)
        await trio.sleep(2)
        await run.reattach()
        with pytest.raises(MeshError, match="crashed"):
            assert [item async for item in run]


def test_what_another_node_could_not_reach_is_no_lost_link_of_ours() -> None:
    assert type(from_code(LinkLost.code, "gone")) is Unreachable


async def test_where_there_is_no_other_way_it_stays_lost(stage: Stage) -> None:
    async def nowhere(_broken: Link) -> Link:
        raise Unreachable("nowhere")

    async with run_on_link(stage.a_to_b, JOB, nowhere) as run:
        assert isinstance(run, RemoteRun)
        await anext(run)
        stage.lose()
        with pytest.raises(LinkLost):
            while True:
                await anext(run)
        with pytest.raises(Unreachable, match="nowhere"):
            await run.reattach()


# --- The ring ---


def test_the_oldest_that_were_sent_go_first() -> None:
    ring = Ring(10 * (FRAME_COST + 4))
    for number in range(15):
        ring.add((b"%04d" % number,))
    assert ring.full
    assert (ring.first, ring.sent, ring.made) == (0, 0, 15)
    for _ in range(15):
        ring.note_sent()
    assert (ring.first, ring.sent, ring.made) == (5, 15, 15)
    assert not ring.rewind(4)
    assert not ring.rewind(16)
    assert ring.sent == 15
    assert ring.rewind(5)
    assert ring.next_unsent() == (b"0005",)


def test_an_item_larger_than_the_ring_goes_once_it_is_sent() -> None:
    ring = Ring(100)
    ring.add((b"x" * 200,))
    assert ring.next_unsent()
    ring.note_sent()
    assert (ring.first, ring.made, ring.full) == (1, 1, False)
