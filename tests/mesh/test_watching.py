"""The lookout: whom it doubts, and when it doubts itself instead. Pure; time is an argument."""

from meshnode.mesh.watching import Lookout, Seen, Sight, answers_needed, is_live, own_fault
from meshwire.ids import NodeId

A, B, C, D = (NodeId(bytes([number]) * 20) for number in range(4))
RTT_S = 0.1


def look(lookout: Lookout, now: float, **silent_s: float) -> Seen:
    """A look at nodes that have been silent for so long."""
    sights = {ids[name]: Sight(now - silence, RTT_S) for name, silence in silent_s.items()}
    return lookout.look(sights, now)


ids = {"a": A, "b": B, "c": C, "d": D}


def awake(until: float) -> Lookout:
    """A lookout that has looked every second until then, at all of them."""
    lookout = Lookout(0.0)
    for second in range(1, int(until)):
        look(lookout, float(second), a=0.0, b=0.0, c=0.0, d=0.0)
    return lookout


def test_whoever_is_watched_from_now_on_is_asked_before_it_is_doubted() -> None:
    lookout = Lookout(0.0)
    for second in range(1, 10):
        look(lookout, float(second), a=0.0)
    assert look(lookout, 10.0, a=0.0, b=4.0) == Seen((B,), ())
    assert look(lookout, 11.0, a=0.0, b=5.0) == Seen((B,), ())
    look(lookout, 12.0, a=0.0, b=6.0)
    assert look(lookout, 13.0, a=0.0, b=7.0) == Seen((B,), (B,))


def test_whoever_was_not_heard_for_a_second_is_probed_and_doubted_only_later() -> None:
    assert look(awake(10), 10.0, a=0.2, b=1.0) == Seen((B,), ())
    assert look(awake(10), 10.0, a=0.2, b=4.0) == Seen((B,), (B,))


def test_the_only_neighbour_can_be_doubted() -> None:
    assert look(awake(10), 10.0, b=4.0).doubted == (B,)


def test_who_hears_nobody_doubts_nobody() -> None:
    assert look(awake(10), 10.0, a=8.0, b=8.0, c=8.0).doubted == ()


def test_who_hears_many_late_takes_longer_to_doubt() -> None:
    assert look(awake(10), 10.0, a=0.2, b=0.2, c=0.2, d=3.0).doubted == (D,)
    assert look(awake(10), 10.0, a=0.2, b=2.4, c=2.4, d=3.0).doubted == ()
    assert D in look(awake(10), 10.0, a=0.2, b=2.4, c=2.4, d=6.0).doubted


def test_whoever_slept_gives_the_others_time() -> None:
    lookout = awake(5)
    assert look(lookout, 30.0, a=0.0, b=25.0).doubted == ()
    assert look(lookout, 31.0, a=0.0, b=26.0).doubted == ()


def test_what_another_node_hears_is_not_doubted_again_at_once() -> None:
    lookout = awake(10)
    assert look(lookout, 10.0, a=0.0, b=4.0).doubted == (B,)
    lookout.vouched(B, 10.0)
    assert look(lookout, 11.0, a=0.0, b=5.0).doubted == ()
    assert look(lookout, 12.0, a=0.0, b=6.0).doubted == ()
    assert look(lookout, 13.0, a=0.0, b=7.0).doubted == (B,)


def test_a_lost_link_is_doubted_soon() -> None:
    sights = {A: Sight(10.0, RTT_S), B: Sight(9.5, RTT_S, linked=False)}
    assert awake(10).look(sights, 10.0).doubted == (B,)


def test_a_link_is_live_for_two_intervals_and_a_round_trip() -> None:
    assert is_live(Sight(0.0, RTT_S), 2.05)
    assert not is_live(Sight(0.0, RTT_S), 2.2)
    assert not is_live(Sight(0.0, RTT_S, linked=False), 0.1)


def test_own_fault_is_the_share_of_others_that_are_late() -> None:
    sights = {A: Sight(0.0, RTT_S), B: Sight(9.9, RTT_S), C: Sight(9.9, RTT_S), D: Sight(0.0, RTT_S)}
    assert round(own_fault(sights, A, 10.0), 2) == 0.33
    assert own_fault({A: sights[A]}, A, 10.0) == 0.0


def test_a_third_of_those_asked_must_answer() -> None:
    assert [answers_needed(asked) for asked in (0, 1, 2, 3, 4, 6, 7, 12)] == [0, 1, 1, 2, 2, 2, 3, 4]
