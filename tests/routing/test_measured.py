"""What was seen of a peer, against what it says."""

import pytest

from meshnode.routing.measured import FADES_S, FARTHEST, MEASURED_MAX, PROVEN_S, Measured
from tests.routing.offers import card

KEY = (b"n" * 20, b"d" * 32)


def test_nothing_seen_is_what_it_says() -> None:
    speeds = Measured().speeds(KEY, card(), 0.0)
    assert (speeds.prompt_tps, speeds.generate_tps, speeds.proven) == (500.0, 100.0, False)


def test_one_answer_tells_how_fast_it_writes_even_beside_others() -> None:
    measured = Measured()
    measured.note_decode(KEY, card(), tps=5.0, crowding=2.0, now=0.0)
    assert measured.speeds(KEY, card(), 0.0).generate_tps == pytest.approx(10.0)
    measured.note_decode(KEY, card(), tps=20.0, crowding=2.0, now=0.0)
    assert measured.speeds(KEY, card(), 0.0).generate_tps == pytest.approx(20.0)


def test_a_late_first_token_slows_it_and_a_punctual_one_changes_nothing() -> None:
    measured = Measured()
    measured.note_first_token(KEY, card(), expected_s=1.0, took_s=1.0, now=0.0)
    assert measured.speeds(KEY, card(), 0.0).prompt_tps == 500.0
    measured.note_first_token(KEY, card(), expected_s=0.25, took_s=4.75, now=0.0)
    assert measured.speeds(KEY, card(), 0.0).prompt_tps == pytest.approx(500.0 / 10**0.5)


def test_what_was_seen_fades_and_is_proven_for_a_while() -> None:
    measured = Measured()
    measured.note_decode(KEY, card(), tps=10.0, crowding=1.0, now=0.0)
    assert measured.speeds(KEY, card(), PROVEN_S - 1).proven
    assert not measured.speeds(KEY, card(), PROVEN_S + 1).proven
    assert measured.speeds(KEY, card(), 20 * FADES_S).generate_tps == pytest.approx(100.0)


def test_another_ad_makes_nobody_faster() -> None:
    measured = Measured()
    measured.note_decode(KEY, card(), tps=10.0, crowding=1.0, now=0.0)
    bold = card(generate_tps=500.0, prompt_tps=9000.0)
    assert measured.speeds(KEY, bold, 0.0).generate_tps == pytest.approx(10.0)


def test_nobody_is_taken_for_ever_slower_and_the_record_stays_small() -> None:
    measured = Measured()
    measured.note_decode(KEY, card(), tps=1e-9, crowding=1.0, now=0.0)
    measured.note_decode(KEY, card(), tps=0.0, crowding=1.0, now=0.0)
    assert measured.speeds(KEY, card(), 0.0).generate_tps == pytest.approx(100.0 / FARTHEST)
    for number in range(MEASURED_MAX):
        measured.note_decode((number.to_bytes(20, "big"), b""), card(), tps=10.0, crowding=1.0, now=0.0)
    assert measured.speeds(KEY, card(), 0.0).generate_tps == 100.0
