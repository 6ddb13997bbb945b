"""The verbs of the simulation, on whole nodes: each does what it says, and can be undone."""

from collections.abc import Callable
from typing import Any

import pytest
import structlog
import trio

from meshnode.errors import MeshError, Unreachable
from meshnode.node import Node
from meshnode.testing.simulation import Simulation, simulate
from meshwire.limits import DEAD_LINK_S
from tests.spans import exported

QUIET: dict[str, Any] = {"discover": False}


async def pair(simulation: Simulation) -> tuple[Node, Node]:
    """Two nodes of one mesh; b has the model."""
    a = await simulation.start("a", engine="none", **QUIET)
    b = await simulation.start("b", **QUIET)
    await b.join(await a.invite())
    await simulation.until(a.models)
    return a, b


async def tokens(node: Node, count: int = 3, deadline_s: float = 60.0) -> int:
    """How many tokens an answer has."""
    async with node.ask("Hello?", max_tokens=count, deadline_s=deadline_s) as running:
        return sum([len(getattr(piece, "ids", ())) async for piece in running.pieces])


async def took_s(act: Callable[[], Any]) -> float:
    begun = trio.current_time()
    await act()
    return trio.current_time() - begun


def linked(node: Node) -> bool:
    return bool(node.snapshot().links)


def test_a_partition_parts_groups_and_heal_ends_all_of_them() -> None:
    async def play(simulation: Simulation) -> None:
        a, b = await pair(simulation)
        simulation.partition(("a",), ("a", "b"))
        begun = trio.current_time()
        await simulation.until(lambda: not linked(a) and not linked(b))
        assert trio.current_time() - begun <= DEAD_LINK_S + 1
        with pytest.raises(MeshError):
            await tokens(a, deadline_s=5)
        simulation.heal()
        await simulation.until(lambda: linked(a) and linked(b), within_s=10)
        assert await tokens(a) == 3

    simulate(1, play)


def test_what_is_held_arrives_in_order_once_it_is_released() -> None:
    async def play(simulation: Simulation) -> None:
        a, _ = await pair(simulation)
        simulation.hold("a", "b")
        async with trio.open_nursery() as nursery:
            counts: list[int] = []

            async def ask() -> None:
                counts.append(await tokens(a, 5))

            nursery.start_soon(ask)
            await trio.sleep(4)
            assert not counts
            simulation.release("a", "b")
            with trio.fail_after(2):
                while not counts:
                    await trio.sleep(0.1)
        assert counts == [5]
        assert linked(a)

    simulate(2, play)


def test_a_paused_node_says_nothing_until_it_goes_on() -> None:
    async def play(simulation: Simulation) -> None:
        a, _ = await pair(simulation)
        simulation.pause("b")
        with pytest.raises(MeshError):
            await tokens(a, deadline_s=2)
        simulation.resume("b")
        assert await tokens(a) == 3

    simulate(3, play)


@pytest.mark.parametrize("silent", [False, True])
def test_a_crash_is_heard_of_at_once_unless_power_failed(silent: bool) -> None:
    async def play(simulation: Simulation) -> float:
        a, _ = await pair(simulation)
        await simulation.crash("b", silent=silent)
        assert not simulation.host("b").running
        return await took_s(lambda: simulation.until(lambda: not linked(a)))

    seen_s = simulate(4, play)
    assert (2 < seen_s <= DEAD_LINK_S + 1) if silent else seen_s < 0.5


def test_who_crashed_comes_back_with_its_disk_and_is_the_same() -> None:
    async def play(simulation: Simulation) -> None:
        a, b = await pair(simulation)
        name = b.identity.node
        await simulation.crash("b", silent=True)
        b = await simulation.restart("b")
        assert b.identity.node == name
        await simulation.until(lambda: linked(a) and a.models(), within_s=10)
        assert await tokens(a) == 3

    simulate(5, play)


def test_without_its_disk_it_is_somebody_else() -> None:
    async def play(simulation: Simulation) -> None:
        _, b = await pair(simulation)
        name = b.identity.node
        await simulation.stop("b")
        simulation.set_disk("b", None)
        b = await simulation.restart("b")
        assert b.identity.node != name
        assert not linked(b)

    simulate(6, play)


def test_a_crash_leaves_the_disk_as_it_was_and_a_stale_one_recovers() -> None:
    async def play(simulation: Simulation) -> None:
        a, _ = await pair(simulation)
        stale = simulation.copy_disk("b")
        await trio.sleep(120)
        await simulation.crash("b")
        simulation.set_disk("b", stale)
        b = await simulation.restart("b")
        node = b.identity.node
        await simulation.until(lambda: linked(a) and a.models(), within_s=10)
        assert a.presence is not None
        assert b.presence is not None
        # What it says now outruns what it said before its disk went back in time.
        await simulation.until(lambda: a.presence.book.version(node) == b.presence.book.last_seq, within_s=10)  # type: ignore[union-attr]
        assert await tokens(a) == 3

    simulate(7, play)


@pytest.mark.parametrize("ahead_s", [-300, 300])
def test_a_clock_that_is_five_minutes_wrong_keeps_nobody_out(ahead_s: float) -> None:
    async def play(simulation: Simulation) -> None:
        a = await simulation.start("a", engine="none", **QUIET)
        simulation.set_clock("b", ahead_s)
        b = await simulation.start("b", **QUIET)
        assert round(b.seams.wall() - a.seams.wall()) == ahead_s
        await b.join(await a.invite())
        await simulation.until(a.models, within_s=10)
        assert await tokens(a) == 3

    simulate(8, play)


def test_a_lossy_way_stalls_and_a_narrow_one_takes_its_time() -> None:
    async def play(simulation: Simulation) -> tuple[float, float, float]:
        a, _ = await pair(simulation)
        await tokens(a)  # the link has settled
        clean_s = await took_s(lambda: tokens(a, 20))
        simulation.shape("a", "b", loss=0.2)
        lossy_s = await took_s(lambda: tokens(a, 20))
        simulation.shape("a", "b", loss=0.0, bytes_per_s=2_000)
        return clean_s, lossy_s, await took_s(lambda: tokens(a, 20))

    clean_s, lossy_s, narrow_s = simulate(9, play)
    assert lossy_s > clean_s + 0.2
    assert narrow_s > 1.5 * clean_s


def test_delays_come_from_measured_round_trips() -> None:
    matrix = ((0.0, 0.2, 0.4), (0.6, 0.0, 0.8), (0.1, 0.3, 0.0))

    async def play(simulation: Simulation) -> list[float]:
        names = ("a", "b", "c")
        for name in names:
            simulation.host(name)
        simulation.host("d")  # shares the row of the first
        way = simulation.network.conditions.way
        assert way("d", "b") == way("a", "b")
        ways = [(one, other) for one in names for other in names if one != other]
        return [2 * simulation.network.conditions.way(*way).delay_s for way in ways]

    drawn = simulate(1, play, matrix=matrix)
    assert sorted(drawn) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
    assert len({tuple(simulate(seed, play, matrix=matrix)) for seed in range(8)}) > 1


def test_a_failure_names_its_seed_and_what_happened() -> None:
    async def play(simulation: Simulation) -> None:
        await pair(simulation)
        simulation.partition("a", "b", one_way=True)
        raise LookupError("mine")

    before = structlog.get_config()
    with pytest.raises(LookupError, match="mine") as caught:
        simulate(11, play)
    (note,) = caught.value.__notes__
    assert "Seed 11" in note
    assert "partition: a → b" in note
    assert "link up" in note
    assert [line for line in note.splitlines() if " b " in line and "link up" in line]  # b's own, not a's
    assert structlog.get_config() == before


def test_starting_and_stopping_in_the_wrong_order_is_refused() -> None:
    async def play(simulation: Simulation) -> None:
        with pytest.raises(RuntimeError, match="no node on 'a'"):
            await simulation.crash("a")
        await simulation.start("a", engine="none")
        with pytest.raises(RuntimeError, match="runs already"):
            await simulation.start("a")
        with pytest.raises(RuntimeError, match="stop or crash it"):
            simulation.set_disk("a", None)

    simulate(12, play)


def test_a_trace_is_the_same_where_the_process_makes_spans() -> None:
    async def play(simulation: Simulation) -> str:
        a, _ = await pair(simulation)
        simulation.note(await tokens(a, 2))
        return simulation.digest

    with exported():
        assert simulate(3, play) == simulate(3, play)


def test_twenty_seeds_twice_each_have_the_same_digests() -> None:
    async def play(simulation: Simulation) -> str:
        a, _ = await pair(simulation)
        simulation.shape("a", "b", loss=0.1, jitter_s=0.02)
        try:
            simulation.note(await tokens(a, 8, deadline_s=20))
        except MeshError as error:
            simulation.note(error)
        await simulation.crash("b", silent=True)
        await trio.sleep(3)
        await simulation.restart("b")
        simulation.partition("a", "b")
        await trio.sleep(5)
        simulation.heal()
        await trio.sleep(5)
        return simulation.digest

    first, second = ([simulate(seed, play) for seed in range(20)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 20


def test_an_unreachable_address_is_an_error_of_the_mesh() -> None:
    async def play(simulation: Simulation) -> None:
        a = await simulation.start("a", engine="none", **QUIET)
        b = await simulation.start("b", **QUIET)
        simulation.partition("a", "b")
        with pytest.raises(Unreachable):
            await b.join(await a.invite())

    simulate(13, play)


def test_a_member_that_joins_its_own_mesh_again_stays_in_it_while_nobody_answers() -> None:
    async def play(simulation: Simulation) -> None:
        a, b = await pair(simulation)
        mesh = b.snapshot().mesh.id
        simulation.partition("a", "b")
        await simulation.until(lambda: not linked(b), within_s=15)
        await b.join(await a.invite(), leave=True)
        assert b.snapshot().mesh.id == mesh
        simulation.heal()
        await simulation.until(lambda: linked(a) and linked(b), within_s=10)

    simulate(13, play)
