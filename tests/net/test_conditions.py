"""What lies between two places: the arithmetic of delays, loss, bandwidth, partitions and holds."""

import math
import random
import statistics

import pytest

from meshnode.net.conditions import GIVE_UP_S, PACKET_BYTES, RETRY_S, Conditions, Way


def conditions(seed: int = 1, delay_s: float = 0.0) -> Conditions:
    return Conditions(random.Random(seed), (delay_s, delay_s))


def test_a_message_takes_the_delay_and_its_turn_on_a_narrow_way() -> None:
    between = conditions(delay_s=0.1)
    between.set("a", "b", bytes_per_s=1000.0)
    assert between.arrival("a", "b", 500, now=1.0) == pytest.approx(1.6)
    assert between.arrival("a", "b", 500, now=1.0) == pytest.approx(2.1)  # after the first has left
    assert between.arrival("b", "a", 500, now=1.0) == pytest.approx(1.6)  # the way back is another
    assert between.arrival("a", "b", 500, now=9.0) == pytest.approx(9.6)


def test_jitter_is_drawn_for_each_message_within_its_bound() -> None:
    between = conditions()
    between.set("a", "b", jitter_s=0.5)
    drawn = [between.arrival("a", "b", 1, now=0.0) for _ in range(200)]
    assert 0 <= min(drawn) < 0.1
    assert 0.4 < max(drawn) <= 0.5


@pytest.mark.parametrize(("loss", "packets"), [(0.1, 1), (0.5, 1), (0.1, 20)])
def test_as_many_messages_stall_as_a_packet_of_theirs_is_lost(loss: float, packets: int) -> None:
    between = conditions()
    between.set("a", "b", loss=loss)
    stalls = [between.arrival("a", "b", packets * PACKET_BYTES, now=0.0) for _ in range(4000)]
    undisturbed = sum(stall == 0 for stall in stalls) / len(stalls)
    assert undisturbed == pytest.approx((1 - loss) ** packets, abs=0.03)
    assert {RETRY_S, round(3 * RETRY_S, 6)} <= {round(stall, 6) for stall in stalls if stall}


def test_a_packet_that_does_not_get_through_breaks_the_connection() -> None:
    between = conditions()
    between.set("a", "b", loss=1.0)
    assert math.isinf(between.arrival("a", "b", 1, now=0.0))
    assert not between.connects("a", "b")
    assert not between.connects("b", "a")


def test_loss_slows_a_far_way_down_more() -> None:
    stalls = []
    for delay_s in (0.01, 0.5):
        between = conditions(delay_s=delay_s)
        between.set("a", "b", loss=0.5)
        stalls.append(statistics.mean(min(between.arrival("a", "b", 1, now=0.0), 60) for _ in range(500)))
    assert stalls[1] > 2 * stalls[0]


def test_what_stops_a_way_and_what_opens_it() -> None:
    between = conditions()
    between.part("a", "b", one_way=True)
    assert not between.passes("a", "b")
    assert between.passes("b", "a")
    assert not between.connects("b", "a")  # the answer would be lost
    between.hold("b", "a")
    between.release("a", "b")
    assert between.passes("b", "a")
    assert not between.passes("a", "b")  # a partition is not released
    between.hold("b", "a")
    between.open("a", "b")
    assert between.passes("a", "b")
    assert between.passes("b", "a")
    between.pause("b")
    assert not between.passes("a", "b")
    assert not between.parted("a", "b")
    between.resume("b")
    between.darken("b", dark=True)
    assert between.parted("a", "b")
    between.open_all()
    assert between.parted("a", "b")  # power does not come back with the network
    between.darken("b", dark=False)
    assert between.passes("a", "b")


@pytest.mark.parametrize("lasted_s", [0.0, 0.1, 0.2, 0.5, 6.0, 12.0])
def test_what_was_lost_in_a_partition_is_sent_again_when_tcp_next_tries(lasted_s: float) -> None:
    again = conditions().retried("a", "b", stopped_at=5.0, now=5.0 + lasted_s)
    assert 5.0 + lasted_s <= again <= 5.0 + 2 * lasted_s + RETRY_S
    doublings = math.log2((again - 5.0) / RETRY_S + 1)
    assert doublings == pytest.approx(round(doublings))


def test_a_long_partition_breaks_connections() -> None:
    assert math.isinf(conditions().retried("a", "b", stopped_at=0.0, now=GIVE_UP_S + 1))


@pytest.mark.parametrize(
    "wrong", [{"delay_s": -1}, {"jitter_s": math.inf}, {"loss": 1.5}, {"loss": -0.1}, {"bytes_per_s": 0}]
)
def test_ways_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Way(**wrong)
