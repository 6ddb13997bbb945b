"""The gate and the pulse: pure, with time as an argument."""

from meshnode.net.gate import NEIGHBOURHOODS_MAX, Gate
from meshnode.net.pulse import PINGS_KEPT, Pulse
from meshwire.limits import (
    DEAD_LINK_S,
    PING_S,
    UNAUTHENTICATED_BURST,
    UNAUTHENTICATED_PER_ADDRESS,
    UNAUTHENTICATED_RATE_PER_S,
)


def test_an_address_has_few_strangers_at_once() -> None:
    gate = Gate()
    assert all(gate.enter("10.0.0.1", 0) for _ in range(UNAUTHENTICATED_PER_ADDRESS))
    assert not gate.enter("10.0.0.1", 0)
    assert gate.enter("10.0.0.2", 0)
    gate.leave("10.0.0.1")
    assert gate.enter("10.0.0.1", 0)


def test_a_neighbourhood_comes_slowly() -> None:
    gate = Gate()
    for host in range(UNAUTHENTICATED_BURST):
        assert gate.enter(f"10.0.0.{host}", 0)
        gate.leave(f"10.0.0.{host}")
    assert not gate.enter("10.0.0.99", 0)
    assert gate.enter("10.0.1.99", 0)
    assert not gate.enter("10.0.0.99", 0.9 / UNAUTHENTICATED_RATE_PER_S)
    assert gate.enter("10.0.0.99", 1.1 / UNAUTHENTICATED_RATE_PER_S)


def test_those_who_turn_out_to_be_known_do_not_count() -> None:
    gate = Gate()
    for _ in range(5 * UNAUTHENTICATED_BURST):
        assert gate.enter("10.0.0.1", 0)
        gate.welcome("10.0.0.1", 0)


def test_a_home_with_ipv6_counts_as_one_address() -> None:
    gate = Gate()
    assert all(gate.enter(f"2001:db8:0:{n}::1", 0) for n in range(UNAUTHENTICATED_PER_ADDRESS))
    assert not gate.enter("2001:db8:0:ff::1", 0)
    assert gate.enter("2001:db8:0:100::1", 0)


def test_an_ipv4_address_in_ipv6_clothes_is_the_same() -> None:
    gate = Gate()
    for _ in range(UNAUTHENTICATED_PER_ADDRESS):
        gate.enter("::ffff:10.0.0.1", 0)
    assert not gate.enter("10.0.0.1", 0)
    assert gate.enter("fe80::1%eth0", 0)


def test_the_gate_remembers_a_bounded_number_of_neighbourhoods() -> None:
    gate = Gate()
    for n in range(2 * NEIGHBOURHOODS_MAX):
        address = f"10.{n // 256}.{n % 256}.1"
        gate.enter(address, 0)
        gate.leave(address)
    assert len(gate._tokens) == NEIGHBOURHOODS_MAX
    assert not gate._present


def test_the_round_trip_is_smoothed() -> None:
    pulse = Pulse(0.0)
    assert pulse.rtt_ms is None
    pulse.ponged(pulse.ping(1.0), 1.08)
    assert round(pulse.rtt_ms or 0) == 80
    pulse.ponged(pulse.ping(2.0), 2.16)
    assert round(pulse.rtt_ms or 0) == 90
    pulse.ponged(99, 3.0)
    assert round(pulse.rtt_ms or 0) == 90


def test_an_old_ping_is_forgotten() -> None:
    pulse = Pulse(0.0)
    tokens = [pulse.ping(float(n)) for n in range(PINGS_KEPT + 1)]
    pulse.ponged(tokens[0], 100.0)
    assert pulse.rtt_ms is None
    assert len(pulse._pinged_at) <= 2


def test_silence_is_death() -> None:
    pulse = Pulse(0.0)
    assert pulse.next_look(0.0) == PING_S
    assert not pulse.is_dead(DEAD_LINK_S - 0.1)
    assert pulse.is_dead(DEAD_LINK_S)
    pulse.heard(8.0)
    assert not pulse.is_dead(DEAD_LINK_S)
    assert pulse.next_look(15.0) == 8.0 + DEAD_LINK_S
