"""The pings of one link: round trips, silence that is asked about, doubt, death."""

import pytest

from meshnode.net.pulse import MEASURE_FIRST_S, MEASURE_S, PINGS_KEPT, YOUNG, Pulse
from meshwire.limits import ANSWER_PROBE_S, DEAD_LINK_S, PING_S, PROBE_ANSWER_S


def test_the_round_trip_is_smoothed() -> None:
    pulse = Pulse(0.0)
    assert pulse.rtt_ms is None
    pulse.ponged(pulse.ping(1.0), 1.08)
    assert round(pulse.rtt_ms or 0) == 80
    for second in range(2, 2 + YOUNG):
        pulse.ponged(pulse.ping(float(second)), second + 0.08)
    pulse.ponged(pulse.ping(20.0), 20.16)
    assert round(pulse.rtt_ms or 0) == 90
    pulse.ponged(99, 21.0)
    assert round(pulse.rtt_ms or 0) == 90


def test_a_slow_beginning_is_soon_forgotten() -> None:
    pulse = Pulse(0.0)
    pulse.ponged(pulse.ping(0.0), 0.08)
    for second in range(1, 5):
        pulse.ponged(pulse.ping(float(second)), second + 0.001)
    assert (pulse.rtt_ms or 0.0) < 6.0


def test_it_asks_until_anything_comes() -> None:
    pulse = Pulse(0.0)
    assert not pulse.asking
    pulse.ping(1.0)
    assert pulse.asking
    pulse.heard(2.0)
    assert not pulse.asking


def test_an_old_ping_is_forgotten() -> None:
    pulse = Pulse(0.0)
    tokens = [pulse.ping(float(n)) for n in range(PINGS_KEPT + 1)]
    pulse.ponged(tokens[0], 100.0)
    assert pulse.rtt_ms is None
    assert len(pulse._pinged_at) <= PINGS_KEPT


def test_silence_is_death() -> None:
    pulse = Pulse(0.0)
    assert pulse.wants_ping(0.0)
    pulse.ping(0.0)
    assert not pulse.wants_ping(MEASURE_FIRST_S - 0.1)
    assert pulse.next_look(0.0) == MEASURE_FIRST_S
    assert not pulse.is_dead(DEAD_LINK_S - 0.1)
    assert pulse.is_dead(DEAD_LINK_S)
    pulse.ping(5.0)
    pulse.ping(10.0)
    pulse.heard(8.0)
    assert not pulse.is_dead(DEAD_LINK_S)
    assert pulse.next_look(15.0) == 15.0


def watched(rtt_s: float) -> Pulse:
    """A pulse that knows its round trip, and has heard something at 10 s."""
    pulse = Pulse(0.0)
    for second in range(10):
        pulse.ponged(pulse.ping(float(second)), second + rtt_s)
    pulse.heard(10.0)
    pulse.watched = True
    return pulse


def test_watched_silence_is_asked_about_once_and_suspicious_when_the_answer_is_overdue() -> None:
    pulse = watched(0.05)
    assert pulse.next_look(10.0) == 10.0 + ANSWER_PROBE_S
    assert not pulse.wants_ping(10.0 + ANSWER_PROBE_S - 0.01)
    assert pulse.wants_ping(10.0 + ANSWER_PROBE_S)
    token = pulse.ping(10.0 + ANSWER_PROBE_S)
    assert not pulse.wants_ping(10.0 + ANSWER_PROBE_S + 0.5)
    overdue = 10.0 + ANSWER_PROBE_S + PROBE_ANSWER_S
    assert pulse.next_look(11.0) == overdue
    assert not pulse.is_suspicious(overdue - 0.01)
    assert pulse.is_suspicious(overdue)
    pulse.ponged(token, overdue + 1)
    pulse.heard(overdue + 1)
    assert not pulse.is_suspicious(overdue + 1)


def test_unwatched_silence_is_left_to_the_usual_pings() -> None:
    pulse = watched(0.05)
    pulse.watched = False
    assert not pulse.wants_ping(10.0 + ANSWER_PROBE_S)
    assert pulse.next_look(10.0) == 10.0 + PING_S


def test_whoever_is_heard_is_pinged_only_to_measure_ever_more_seldom() -> None:
    pulse, pinged = Pulse(0.0), []
    for second in range(100):
        if pulse.wants_ping(float(second)):
            pinged.append(second)
            pulse.ponged(pulse.ping(float(second)), second + 0.1)
        pulse.heard(float(second))
    assert pinged == [0, 1, 2, 4, 8, 16, 32, 62, 92]


def test_an_errand_is_measured_by_nobody() -> None:
    pulse = Pulse(0.0, greets=False)
    for second in range(int(MEASURE_S)):
        pulse.heard(float(second))
        assert not pulse.wants_ping(float(second))


def test_an_errand_is_not_greeted() -> None:
    assert not Pulse(0.0, greets=False).wants_ping(PING_S - 1)
    assert Pulse(0.0, greets=False).wants_ping(PING_S)


@pytest.mark.parametrize("rtt_s", [0.01, 0.3, 0.9, 2.0])
def test_a_far_end_is_given_the_time_it_takes(rtt_s: float) -> None:
    pulse = watched(rtt_s)
    assert max(PROBE_ANSWER_S, rtt_s) <= pulse.patience_s <= max(PROBE_ANSWER_S, 1.1 * rtt_s)


def test_a_way_that_stalls_is_given_more_than_its_mean() -> None:
    pulse = Pulse(0.0)
    for second in range(20):
        pulse.ponged(pulse.ping(float(second)), second + (0.1 if second % 2 else 2.0))
    assert pulse.patience_s > 3.0
