"""Spare cycles in simulated meshes: the owner wants the machine, and others' answers go on elsewhere."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from meshnode.config import Config
from meshnode.engine.scripted import ScriptedEngine
from meshnode.errors import Busy, Interrupted, MeshError
from meshnode.mesh.vitals import read_vitals
from meshnode.node import Node
from meshnode.routing.idle import rules_of
from meshnode.routing.plan import RETRY_S
from meshnode.terms import End, Openness, Piece
from meshnode.testing.hosts import CALM
from meshnode.testing.simulation import Simulation, simulate
from meshwire.records import RecordType

TOKENS = 400  # four seconds
SEEDS = range(12)
WITHIN_S = 1.0
RULES = {"spare_idle_s": 60, "spare_cpu_below": 50, "spare_calm_s": 20}


async def mesh_of_three(simulation: Simulation, **settings: Any) -> Node:
    """One that asks, and two that can answer and keep to their owners' rules."""
    a = await simulation.start("a", engine="none")
    for name in "bc":
        node = await simulation.start(name, **{**RULES, **settings})
        await node.join(await a.invite())
    await simulation.until(lambda: sum(len(model.nodes) for model in a.models()) == 2)
    for name in "bc":
        engine_of(simulation, name).answer_tokens = TOKENS
    return a


def engine_of(simulation: Simulation, name: str) -> ScriptedEngine:
    (engine,) = simulation.host(name).node.bench.engines
    assert isinstance(engine, ScriptedEngine)
    return engine


def openness(simulation: Simulation, name: str) -> Openness:
    return simulation.host(name).node.bench.gate.openness


class Telling:
    """An answer as its client sees it."""

    def __init__(self, node: Node, question: str = "Tell me a story.") -> None:
        self.node, self.question = node, question
        self.by = ""
        self.ids: list[int] = []
        self.text, self.ends = "", 0

    async def run(self) -> None:
        async with self.node.ask(self.question, max_tokens=TOKENS, temperature=0.0, cache="off") as running:
            self.by = running.answer.served_by.split("#")[0]
            async for item in running.pieces:
                self.ends += isinstance(item, End)
                if isinstance(item, Piece):
                    assert item.first_index == len(self.ids)  # none lost, none twice
                    self.ids += item.ids
                    self.text += item.text

    @property
    def whole(self) -> tuple[list[int], str, int]:
        return self.ids, self.text, self.ends


async def expect(kind: type[MeshError], telling: Telling) -> None:
    """The answer ends with an error of this kind."""
    with pytest.raises(kind) as caught:
        await telling.run()
    if kind is Interrupted:
        assert "needs its machine for its owner" in caught.value.message


@pytest.mark.parametrize("seed", SEEDS)
def test_the_owners_activity_moves_all_of_others_work_within_a_second_and_no_token_is_lost(seed: int) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation)
        reference = Telling(a, "Story 0")
        await reference.run()
        tellings = [Telling(a, f"Story {number}") for number in range(4)]
        async with trio.open_nursery() as nursery:
            for telling in tellings:
                nursery.start_soon(telling.run)
            await simulation.until(lambda: all(telling.by for telling in tellings))
            await trio.sleep(simulation.seed % 10 * 0.2)
            left = tellings[0].by
            sign = {"user_idle_s": 0.0} if simulation.seed % 2 else {"others_cpu": 0.9}
            simulation.occupy(left, **sign)
            await trio.sleep(WITHIN_S)
            assert engine_of(simulation, left).load.in_flight == 0
            assert openness(simulation, left) is Openness.PAUSED_FOR_REMOTE
        assert tellings[0].whole == reference.whole
        assert all(len(telling.ids) == TOKENS and telling.ends == 1 for telling in tellings)
        engines = [engine_of(simulation, name) for name in "bc"]
        assert sum(len(engine.finished_jobs) for engine in engines) == 1 + len(tellings)
        # Others hear of it, and ask elsewhere from then on; the reason stays at home.
        (peer,) = [peer for peer in a.snapshot().peers if peer.name == left]
        assert not peer.accepting
        other = Telling(a, "And now?")
        await other.run()
        assert other.by != left

    simulate(seed, play)


def test_work_that_waits_in_line_moves_too(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation, slots=2)
        simulation.occupy("c", user_idle_s=0.0)
        await simulation.until(lambda: not all(peer.accepting for peer in a.snapshot().peers))
        tellings = [Telling(a, f"Story {number}") for number in range(3)]
        async with trio.open_nursery() as nursery:
            for telling in tellings:
                nursery.start_soon(telling.run)
            await trio.sleep(2)
            gate = simulation.host("b").node.bench.gate
            assert gate.load(engine_of(simulation, "b")).in_flight == 3
            await simulation.host("c").node.sharing.resume()  # does not help while somebody types
            assert openness(simulation, "c") is Openness.PAUSED_FOR_REMOTE
            simulation.occupy("c", user_idle_s=1000.0)
            await simulation.host("c").node.sharing.resume()
            assert openness(simulation, "c") is Openness.ACCEPTING
            await trio.sleep(5)
            simulation.occupy("b", others_cpu=1.0)
        assert all(len(telling.ids) == TOKENS and telling.ends == 1 for telling in tellings)

    mesh(play)


def test_a_machine_that_is_busy_now_and_then_does_not_flap(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        await mesh_of_three(simulation)
        gate = simulation.host("b").node.bench.gate
        changes: list[Openness] = []
        gate.watch(lambda: changes.append(gate.openness))
        for _ in range(20):
            simulation.occupy("b", others_cpu=0.9)
            await trio.sleep(2)
            simulation.occupy("b", others_cpu=0.0)
            await trio.sleep(10)
        assert changes == [Openness.PAUSED_FOR_REMOTE]
        await trio.sleep(25)
        assert changes[-1] is Openness.ACCEPTING

    mesh(play)


def test_where_nobody_else_can_go_on_there_is_one_error_that_says_so(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation)
        await simulation.stop("c")
        telling = Telling(a)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, Interrupted, telling)
            await simulation.until(lambda: len(telling.ids) > 5)
            simulation.host("b").node.sharing.pause()
        await trio.sleep(10)
        await expect(Busy, Telling(a))

    mesh(play)


def test_the_owner_is_served_while_others_are_not_and_pauses_all_by_a_word(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        await mesh_of_three(simulation)
        b = simulation.host("b").node
        b.sharing.pause()
        mine = Telling(b)
        await mine.run()
        assert mine.by == "b"
        seen = b.sharing.pause(everything=True, for_s=60.0)
        assert (seen.state, seen.why) == ("paused", ("paused by its owner",))
        assert seen.left_s == pytest.approx(60)
        forwarded = Telling(b)
        await forwarded.run()
        assert forwarded.by == "c"
        await trio.sleep(60)
        assert b.snapshot().sharing.state == "accepting"
        again = Telling(b)
        await again.run()
        assert again.by == "b"

    mesh(play)


def test_the_owner_of_a_single_slot_does_not_wait_behind_others(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation, slots=1)
        theirs = Telling(a)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.run)
            await simulation.until(lambda: len(theirs.ids) > 50)
            b = simulation.host(theirs.by).node
            begun = trio.current_time()
            mine = Telling(b)
            async with b.ask("Mine", place="local", max_tokens=1) as running:
                await anext(running.pieces)
                assert trio.current_time() - begun < 0.5
        assert len(theirs.ids) == TOKENS
        assert mine.ends == 0

    mesh(play)


def test_hours_are_kept_by_the_clock(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        simulation.occupy("b", weekday=0, minute=12 * 60)
        b = await simulation.start("b", spare_hours=("22:00-07:00",))
        await trio.sleep(1)
        assert b.snapshot().sharing.why == ("outside its hours",)
        simulation.occupy("b", minute=22 * 60)
        await trio.sleep(1)
        assert b.snapshot().sharing.state == "accepting"

    mesh(play)


def test_what_a_node_says_of_itself_follows_at_once(mesh: Callable[..., Any]) -> None:
    async def play(simulation: Simulation) -> None:
        await mesh_of_three(simulation)
        await trio.sleep(10.3)
        b = simulation.host("b").node
        assert b.presence is not None
        for act, state in ((b.sharing.pause, Openness.PAUSED_FOR_REMOTE), (None, Openness.ACCEPTING)):
            if act is not None:
                act()
            else:
                await b.sharing.resume()
            await trio.sleep(0.01)
            record = b.presence.book.get(b.presence.book.own, RecordType.VITALS)
            assert record is not None
            assert read_vitals(record).openness is state
            await trio.sleep(5.3)

    mesh(play)


def test_nobody_else_learns_why(mesh: Callable[..., Any]) -> None:
    """Whatever closes a node, all that others get is the same bytes."""

    async def play(simulation: Simulation) -> None:
        a = await mesh_of_three(simulation, spare_on_mains=True, spare_temperature_below=80)
        told: set[tuple[object, ...]] = set()
        for sign in ({"user_idle_s": 0.0}, {"others_cpu": 0.9}, {"on_mains": False}, {"temperature_c": 95.0}):
            for name in "bc":
                simulation.occupy(name, **sign)
            await trio.sleep(5)
            (peer, _) = a.presence.view().values()  # type: ignore[union-attr]
            assert peer.vitals is not None
            refusal = await refused(a)
            told.add((peer.vitals.openness, peer.vitals.accepting, refusal.retry_after_s))
            for name in "bc":
                simulation.host(name).reading = CALM
                await simulation.host(name).node.sharing.resume()
            await trio.sleep(5)
        assert told == {(Openness.PAUSED_FOR_REMOTE, False, RETRY_S)}

    mesh(play)


async def refused(node: Node) -> Busy:
    with pytest.raises(Busy) as caught:
        async with node.ask("Anyone?"):
            pass
    assert "keyboard" not in str(caught.value)
    return caught.value


def test_the_page_about_spare_cycles_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "spare-cycles.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/spare-cycles.md", "exec"), {})
    assert "'paused for remote'" in capsys.readouterr().out
    (settings,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    given = tomllib.loads(settings)
    assert rules_of(Config(home=Path(), **{**given, "spare_hours": tuple(given["spare_hours"])})).any
    every = {name for name in Config.__struct_fields__ if name.startswith("spare_")}
    assert all(f"`{name}`" in page for name in every)
