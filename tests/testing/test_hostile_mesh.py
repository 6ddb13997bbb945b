"""A fifth of hostile nodes, and nodes that come and go: small versions of the rows of scripts/bench/reliability."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts" / "bench"))

from reliability import churn, clocks, hostile  # type: ignore[import-not-found]

from meshnode.testing.simulation import simulate


@pytest.mark.parametrize("is_open", [False, True])
def test_a_fifth_of_hostile_nodes_hides_no_provider(is_open: bool) -> None:
    assert simulate(3, hostile.hiding(10, is_open=is_open)) == [0.0]


def test_providers_are_found_and_requests_done_while_nodes_come_and_go() -> None:
    assert simulate(4, churn.churning(6, for_s=60)) == ([0.0], [0.0])


def test_clocks_that_are_wrong_keep_nobody_out() -> None:
    assert max(simulate(5, clocks.skewed(6))) < 10


def test_a_node_with_an_old_disk_rolls_nothing_back() -> None:
    assert max(simulate(6, clocks.stale_disk(5))) < 10
