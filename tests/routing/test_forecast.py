"""The fluid model against plays whose outcome is known."""

import pytest

from meshnode.routing.forecast import Work, starts_s
from tests.routing.offers import card

ONE = card(prompt_tps=100.0, generate_tps=10.0, slots=1, batch_gain=1.0)
PAIR = card(prompt_tps=100.0, generate_tps=10.0, slots=2, batch_gain=2.0)


def starts(running: list[Work], own: list[Work], others: list[Work], slots: int, most: int = 9) -> object:
    return starts_s(running, own, others, slots=slots, others_slots=most)


def test_each_waits_for_those_before_it() -> None:
    waiting = [Work(100, 10, ONE), Work(100, 10, ONE)]
    assert starts([Work(50, 10, ONE)], waiting, [], 1) == ([pytest.approx(1.5), pytest.approx(3.5)], [])


def test_whoever_finds_a_slot_does_not_wait() -> None:
    assert starts([Work(50, 10, PAIR)], [Work(1, 1, PAIR)], [], 2) == ([0.0], [])


def test_those_who_read_share_the_speed_and_those_who_write_have_each_their_own() -> None:
    running = [Work(100, 10, PAIR), Work(100, 20, PAIR)]
    assert starts(running, [Work(1, 1, PAIR)] * 2, [], 2)[0][0] == pytest.approx(3.0)  # type: ignore[index]


def test_the_owner_goes_first_and_others_keep_to_their_slots() -> None:
    running = [Work(0, 10, PAIR, True)]
    own, others = starts(running, [Work(0, 30, PAIR)], [Work(0, 1, PAIR, True)], 2, most=1)  # type: ignore[misc]
    assert own == [0.0]
    assert others == [pytest.approx(1.0)]


def test_each_model_has_its_own_speeds() -> None:
    slow = card(prompt_tps=1.0, generate_tps=1.0, slots=1)
    assert starts([Work(10, 10, slow)], [Work(1, 1, ONE)], [], 1) == ([pytest.approx(20.0)], [])


def test_inputs_are_left_as_they_were() -> None:
    running, waiting = Work(50, 10, ONE), Work(100, 10, ONE)
    starts([running], [waiting], [], 1)
    assert (running, waiting) == (Work(50, 10, ONE), Work(100, 10, ONE))
