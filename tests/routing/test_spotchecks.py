"""Spot checks' decisions: honest peers are cleared and never accused, foreign ones found, circles accuse nobody."""

import random

import pytest

from meshnode.routing.policy import Reason, parse_model, reject
from meshnode.routing.spotchecks import (
    ANSWERS_LEAST,
    DISTRUSTED_MAX,
    DISTRUSTED_MS,
    FLAGRANT_AMONG,
    NEAR_TIE,
    PEERS_MAX,
    PLACES,
    Distrusted,
    Finding,
    SpotChecks,
    Verdict,
)
from meshnode.terms import Redrawn, Wish
from tests.routing.offers import offer

KEY = (b"n" * 32, b"d" * 32)
NOW = 1_000
AGREES, TIES, MISSES = (Redrawn(1, -0.1, -0.2, miss) for miss in (0.0, NEAR_TIE, NEAR_TIE + 0.01))


def checks(share=0.05, seed=1):
    return SpotChecks(random.Random(seed), share)


def answer(rng, missed):
    """An answer of which a share of the places is missed."""
    return [MISSES if rng.random() < missed else AGREES for _ in range(PLACES)]


def found_after(missed, answers, seed):
    """After how many answers a peer is found foreign; 0 for never."""
    rng, tests = random.Random(seed), checks()
    for count in range(1, answers + 1):
        if tests.note(KEY, answer(rng, missed), NOW):
            return count
    return 0


@pytest.mark.parametrize("missed", [0.0, 0.005, 0.0105, 0.015])
def test_the_same_weights_are_never_accused(missed):
    assert [found_after(missed, 1000, seed) for seed in range(20)] == [0] * 20


@pytest.mark.parametrize("missed", [0.15, 0.3, 1.0])
def test_other_weights_are_found_within_twenty_answers(missed):
    assert all(ANSWERS_LEAST <= found_after(missed, 20, seed) <= 20 for seed in range(100))


def test_near_ties_are_no_misses():
    tests = checks()
    assert all(tests.note(KEY, [TIES] * PLACES, NOW) is None for _ in range(100))
    assert tests.verdict(KEY) is Verdict.CLEARED


def test_one_answer_that_goes_in_circles_accuses_nobody():
    tests = checks()
    found = [tests.note(KEY, [MISSES] * 1000, NOW) for _ in range(ANSWERS_LEAST)]
    assert found[:-1] == [None] * (ANSWERS_LEAST - 1)
    assert found[-1] is not None


def test_the_finding_says_what_was_found_and_until_when():
    tests = checks()
    found = [tests.note(KEY, [MISSES] * PLACES, NOW) for _ in range(ANSWERS_LEAST)][-1]
    assert found is not None
    assert (found.node, found.digest, found.until_ms) == (*KEY, NOW + DISTRUSTED_MS)
    assert found.told == "128 of 128 tokens in 4 answers are not what these weights write"


def test_all_answers_are_checked_until_a_peer_is_cleared_and_a_share_after_that():
    tests = checks(share=0.1)
    while tests.verdict(KEY) is Verdict.UNDECIDED:
        assert tests.wants(KEY)
        tests.note(KEY, [AGREES] * PLACES, NOW)
    assert 60 < sum(tests.wants(KEY) for _ in range(1000)) < 140
    assert tests.wants((b"another", KEY[1]))


def test_with_a_share_of_nothing_nothing_is_checked():
    assert not checks(share=0.0).on
    assert not checks(share=0.0).wants(KEY)


def test_who_was_cleared_and_exchanges_its_weights_is_found_as_soon():
    rng, tests = random.Random(3), checks()
    for _ in range(200):
        assert tests.note(KEY, answer(rng, 0.01), NOW) is None
    assert any(tests.note(KEY, answer(rng, 0.3), NOW) for _ in range(10))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_who_answers_with_other_weights_now_and_then_is_found_too(share):
    for seed in range(20):
        rng, tests = random.Random(seed), checks()
        among = round(12 / share)
        answers = [answer(rng, 0.3 if rng.random() < share else 0.005) for _ in range(among)]
        found = [finding for one in answers if (finding := tests.note(KEY, one, NOW))]
        assert found
        assert found[0].missed > found[0].places / 20


def test_odd_answers_far_apart_accuse_nobody():
    tests = checks()
    for _ in range(10):
        assert tests.note(KEY, [MISSES] * PLACES, NOW) is None
        assert all(tests.note(KEY, [AGREES] * PLACES, NOW) is None for _ in range(FLAGRANT_AMONG))


def test_what_is_remembered_is_bounded():
    tests = checks()
    for number in range(PEERS_MAX + 5):
        tests.note((b"%d" % number, b"d"), [AGREES] * 200, NOW)
    assert tests.verdict((b"0", b"d")) is Verdict.UNDECIDED
    assert tests.verdict((b"%d" % PEERS_MAX, b"d")) is Verdict.CLEARED
    distrusted = Distrusted()
    for number in range(DISTRUSTED_MAX + 5):
        distrusted.add(finding(b"%d" % number))
    assert len(distrusted.findings(NOW)) == DISTRUSTED_MAX


def finding(node=KEY[0], until_ms=NOW + 10):
    return Finding(node=node, digest=KEY[1], answers=4, places=8, missed=8, until_ms=until_ms)


def test_distrust_is_for_those_weights_and_ends():
    distrusted = Distrusted([finding()])
    assert distrusted.holds(KEY, NOW + 9)
    assert not distrusted.holds((KEY[0], b"other weights"), NOW)
    assert not distrusted.holds(KEY, NOW + 10)
    assert distrusted.findings(NOW + 10) == ()


def test_a_distrusted_candidate_is_ruled_out_with_a_reason_of_its_own():
    candidate = offer(1, distrusted=True)
    assert reject(candidate, Wish(), parse_model("")) is Reason.FOREIGN
    assert reject(offer(1), Wish(), parse_model("")) is None
