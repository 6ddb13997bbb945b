"""What a candidate costs."""

import pytest

from meshnode.routing.score import (
    GENERATE_TPS_UNKNOWN,
    SENT_MEMORY_S,
    TIGHT_CONTEXT_S,
    SentLedger,
    parameters,
    score,
    speed_beside,
)
from meshnode.terms import Wish
from tests.routing.offers import at_home, card, offer

WISH = Wish(prompt_tokens=500, output_tokens=200)


def test_the_terms_add_up() -> None:
    cost = score(offer(1, queued_prefill=1000, queued_decode=50, rtt_ms=40.0), WISH)
    assert (cost.rtt_s, cost.wait_s, cost.prefill_s, cost.decode_s) == (0.04, 2.5, 1.0, 2.0)
    assert cost.first_token_s == pytest.approx(3.54)
    assert cost.total_s == pytest.approx(5.54)


def test_own_requests_that_gossip_does_not_show_yet_count() -> None:
    candidate = offer(1)
    sent = {(candidate.node, candidate.card.digest): 250}
    assert score(candidate, WISH, own_sent=sent).wait_s == 0.5


def test_this_node_costs_no_round_trip() -> None:
    assert score(at_home(), WISH).rtt_s == 0.0
    assert score(offer(1, rtt_ms=None), WISH).rtt_s > 0.1


def test_a_node_that_runs_others_is_slower_for_each_and_faster_in_all() -> None:
    alone, beside = speed_beside(card(), 0), speed_beside(card(), 3)
    assert alone == 100.0
    assert beside == 50.0
    assert speed_beside(card(), 100) == beside
    assert speed_beside(card(slots=1), 5) == 100.0


def test_speeds_not_measured_yet_are_taken_as_modest() -> None:
    cost = score(offer(1, model=card(prompt_tps=0.0, generate_tps=0.0)), WISH)
    assert cost.decode_s == WISH.output_tokens / GENERATE_TPS_UNKNOWN


def test_a_context_that_looks_too_small_is_a_last_choice() -> None:
    assert score(offer(1, model=card(context=600)), WISH).preference_s == TIGHT_CONTEXT_S
    assert score(offer(1, model=card(context=700)), WISH).preference_s == 0.0


def test_auto_prefers_larger_and_better_models_up_to_a_point() -> None:
    small, large = offer(1, model=card("a:1b")), offer(2, model=card("a:8b"))
    slow = offer(3, model=card("a:8b", generate_tps=2.0))
    costs = [score(one, WISH, auto=True).total_s for one in (large, small, slow)]
    assert costs == sorted(costs)
    assert score(small, WISH).total_s == score(large, WISH).total_s


@pytest.mark.parametrize(
    ("size", "count"), [("135m", 135e6), ("8b", 8e9), ("1.7B", 1.7e9), ("8x7b", 56e9), ("", 1e8)]
)
def test_sizes(size: str, count: float) -> None:
    assert parameters(size) == pytest.approx(count)


def test_the_ledger_counts_until_the_vitals_show_it() -> None:
    ledger, node, digest = SentLedger(), b"n" * 20, b"d" * 32
    ledger.note(node, digest, 100, vitals_seq=7, now=0.0)
    ledger.note(node, digest, 50, vitals_seq=8, now=1.0)
    assert ledger.since({node: 7}, now=1.0) == {(node, digest): 150}
    assert ledger.since({node: 8}, now=1.0) == {(node, digest): 50}
    assert ledger.since({node: 9}, now=1.0) == {(node, digest): 0}
    assert ledger.since({node: 7}, now=1.0 + SENT_MEMORY_S) == {}
