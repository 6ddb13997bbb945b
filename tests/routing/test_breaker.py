"""Breakers as plays: what opens one, for how long, who tries it, and how it closes."""

import random

import pytest

from meshnode.routing.breaker import (
    BREAKERS_MAX,
    IN_A_ROW,
    JITTER,
    OPENS_LATEST_S,
    OPENS_S,
    SLOW_START_S,
    SLOW_START_SHARE,
    TRIAL_S,
    WINDOW_S,
    Breakers,
    Outcome,
)

KEY, OTHER = (b"n" * 20, b"d" * 32), (b"m" * 20, b"d" * 32)


def breakers() -> Breakers:
    return Breakers(random.Random(1))


def fail(some: Breakers, now: float = 0.0, times: int = 1, request: str = "") -> None:
    for _ in range(times):
        some.note(KEY, request, Outcome.FAILED, now)


def test_three_failures_in_a_row_open_it_and_two_do_not() -> None:
    some = breakers()
    fail(some, times=IN_A_ROW - 1)
    some.note(KEY, "", Outcome.SERVED, 1.0)
    fail(some, now=WINDOW_S, times=IN_A_ROW - 1)
    assert some.lets_through(KEY, WINDOW_S)
    fail(some, now=WINDOW_S)
    assert not some.lets_through(KEY, WINDOW_S)
    assert some.lets_through(OTHER, WINDOW_S)


def test_half_of_five_within_a_minute_open_it() -> None:
    for late, through in ((0.0, False), (WINDOW_S, True)):
        some = breakers()
        for at, outcome in enumerate((Outcome.FAILED, Outcome.FAILED, Outcome.SERVED, Outcome.SERVED)):
            some.note(KEY, "", outcome, float(at))
        some.note(KEY, "", Outcome.FAILED, 5.0 + late)
        assert some.lets_through(KEY, 5.0 + late) is through


def test_silence_opens_it_at_once_since_it_costs_so_much() -> None:
    some = breakers()
    some.note(KEY, "", Outcome.SILENT, 0.0)
    assert not some.lets_through(KEY, 0.0)
    assert some.is_silent(KEY)


def test_it_stays_open_twice_as_long_each_time_up_to_a_minute() -> None:
    some, now, opened = breakers(), 0.0, []
    fail(some, times=IN_A_ROW)
    for trial in range(6):
        began = now
        while not some.lets_through(KEY, now):
            now += 0.1
        opened.append(now - began)
        some.sent(KEY, str(trial), now)
        fail(some, now, request=str(trial))
    for took, longest in zip(opened, (5.0, 10.0, 20.0, 40.0, 60.0, 60.0), strict=True):
        assert longest * (1 - JITTER) - 0.2 <= took <= longest + 0.2
    assert max(opened) <= OPENS_LATEST_S + 0.2


def test_one_request_tries_it_and_closes_it() -> None:
    some = breakers()
    fail(some, times=IN_A_ROW)
    assert some.is_due(KEY, OPENS_S)
    some.sent(KEY, "trial", OPENS_S)
    assert not some.lets_through(KEY, OPENS_S)
    some.note(KEY, "another", Outcome.SERVED, OPENS_S)  # sent before it opened: it tells nothing new
    assert not some.lets_through(KEY, OPENS_S)
    some.note(KEY, "trial", Outcome.SERVED, OPENS_S)
    assert some.lets_through(KEY, OPENS_S)
    assert not some.is_due(KEY, OPENS_S)


def test_a_trial_that_was_cancelled_or_forgotten_leaves_room_for_another() -> None:
    some = breakers()
    fail(some, times=IN_A_ROW)
    some.sent(KEY, "trial", OPENS_S)
    some.left(KEY, "another")
    assert not some.lets_through(KEY, OPENS_S)
    some.left(KEY, "trial")
    assert some.lets_through(KEY, OPENS_S)
    some.sent(KEY, "lost", OPENS_S)
    assert some.lets_through(KEY, OPENS_S + TRIAL_S)


def test_late_news_of_old_requests_does_not_shut_it_for_longer() -> None:
    some = breakers()
    fail(some, times=IN_A_ROW)
    fail(some, now=4.0, times=9)
    assert some.lets_through(KEY, OPENS_S)


def test_its_share_grows_back_slowly() -> None:
    some = breakers()
    assert some.share(KEY, 0.0) == 1.0
    fail(some, times=IN_A_ROW)
    some.sent(KEY, "trial", OPENS_S)
    some.note(KEY, "trial", Outcome.SERVED, OPENS_S)
    shares = [some.share(KEY, OPENS_S + SLOW_START_S * part) for part in (0.0, 0.5, 1.0, 9.0)]
    assert shares == pytest.approx([SLOW_START_SHARE, (1 + SLOW_START_SHARE) / 2, 1.0, 1.0])


def test_there_are_never_too_many() -> None:
    some = breakers()
    fail(some, times=IN_A_ROW)
    for number in range(BREAKERS_MAX):
        some.note((number.to_bytes(20, "big"), b""), "", Outcome.FAILED, 0.0)
    assert some.lets_through(KEY, 0.0)
