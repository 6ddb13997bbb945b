"""The benchmark of routing in short: near the bound, one wait for who hangs, no more than a share for who boasts."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCH = str(Path(__file__).parents[2] / "scripts" / "bench")
sys.path.insert(0, BENCH)
try:
    import routing
    from fleets import plays
    from fleets.cells import Cell, played
finally:
    sys.path.remove(BENCH)


@pytest.fixture(scope="module")
def cell() -> Cell:
    return Cell(routing.OURS, 10, 0.75, 5.0, str(routing.made_trace(400)), "", 400)


def test_it_is_near_what_could_be_done_with_all_there_is_to_know(cell: Cell) -> None:
    ours, bound, blind = (
        played(replace(cell, policy=name), routing.POLICIES[name](1))
        for name in (routing.OURS, routing.BOUND, "two choices")
    )
    assert ours["mean"] <= 1.3 * bound["mean"]
    assert ours["p99"] < blind["p99"] / 3
    assert ours["lost"] == 0


def test_who_hangs_costs_one_wait_and_is_back_within_a_minute(cell: Cell) -> None:
    wedge = plays.wedged(replace(cell, load=0.5))
    assert wedge.timeouts <= 1
    assert wedge.back_s <= 60.0


def test_who_boasts_gets_no_more_than_twice_its_share(cell: Cell) -> None:
    assert plays.liars_share(replace(cell, requests=1000)) <= 2 / plays.LIAR_MACHINES


def test_an_idle_fleet_refuses_nobody(cell: Cell) -> None:
    assert plays.turned_away_when_idle(replace(cell, requests=100)) == 0
