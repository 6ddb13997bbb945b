"""The thread count follows what other programs leave free."""

import os

import pytest

from meshnode.engine.threads import Others, choose, cores, most


@pytest.mark.parametrize(
    ("core_count", "others", "current", "expected"),
    [
        (2, 0.0, 2, 2),
        (2, 0.2, 2, 2),  # beside a fifth of a core two threads are still the faster
        (2, 1.0, 2, 1),  # beside a whole core one is
        (2, 0.1, 1, 2),
        (2, 0.5, 2, 2),  # between the two nothing changes
        (2, 0.5, 1, 1),
        (2, 2.0, 1, 1),
        (8, 0.0, 7, 7),
        (8, 3.0, 7, 5),
        (8, 9.0, 7, 1),
        (1, 1.0, 1, 1),
    ],
)
def test_the_count_follows_the_load_with_hysteresis(core_count, others, current, expected):
    assert choose(core_count, others, current) == expected


def test_one_core_stays_with_the_owner_when_there_are_more_than_two():
    assert [most(count) for count in (1, 2, 3, 8)] == [1, 2, 2, 7]
    assert cores() >= 1


def test_looking_at_the_machine_never_fails():
    assert Others(os.getpid()).look(1.0) >= 0.0
    assert Others(2**22 + 1).look(1.0) >= 0.0
