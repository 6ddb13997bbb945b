"""What a candidate costs."""

import pytest

from meshnode.routing.quality import TASKS, Qualities
from meshnode.routing.score import (
    GENERATE_TPS_UNKNOWN,
    TIGHT_CONTEXT_S,
    Known,
    Worth,
    crowding,
    score,
    slot_wait_tokens,
)
from meshnode.terms import Rating, Wish
from tests.routing.offers import at_home, card, offer

WISH = Wish(prompt_tokens=500, output_tokens=200)


def test_the_terms_add_up() -> None:
    one_slot = card(slots=1, batch_gain=1.0)
    busy = offer(1, model=one_slot, in_flight=1, queued_prefill=1000, queued_decode=50, rtt_ms=40.0)
    cost = score(busy, WISH)
    assert (cost.rtt_s, cost.wait_s, cost.prefill_s, cost.decode_s) == (0.04, 2.5, 1.0, 2.0)
    assert cost.first_token_s == pytest.approx(3.54)
    assert cost.total_s == pytest.approx(5.54)


def test_nobody_waits_for_answers_while_a_slot_is_free() -> None:
    assert slot_wait_tokens(card(), 3, 900) == 0.0
    assert slot_wait_tokens(card(), 4, 800) == 800 * 1 / 4 / 2.0
    assert slot_wait_tokens(card(), 8, 800) == 800 * 5 / 8 / 2.0
    assert slot_wait_tokens(card(slots=1, batch_gain=1.0), 3, 300) == 300


def test_own_requests_that_gossip_does_not_show_yet_count() -> None:
    alone = score(offer(1), WISH)
    known = Known(sent=3, sent_prefill=250)
    assert score(offer(1), WISH, known=known).wait_s == 0.5
    assert score(offer(1), WISH, known=known).decode_s > alone.decode_s


def test_what_was_measured_outweighs_what_is_advertised() -> None:
    known = Known(prompt_tps=50.0, generate_tps=10.0)
    assert score(offer(1), WISH, known=known).prefill_s == 10.0
    assert score(offer(1), WISH, known=known).decode_s == 20.0


def test_a_prompt_that_is_there_already_is_not_read_again() -> None:
    assert score(offer(1), WISH, known=Known(matched_prefix=400)).prefill_s == 0.2
    assert score(offer(1), WISH, known=Known(matched_prefix=9999)).prefill_s == 0.0


def test_a_node_that_says_it_begins_later_is_believed_and_one_that_says_sooner_is_not() -> None:
    assert score(offer(1), WISH, known=Known(first_token_s=30.0)).first_token_s == pytest.approx(30.01)
    slow = score(offer(1, queued_prefill=5000), WISH, known=Known(first_token_s=0.1))
    assert slow.first_token_s == pytest.approx(11.01)


def test_money_and_energy_count_in_seconds() -> None:
    worth = Worth(usd_s=3600.0, joule_s=0.01)
    dear = score(offer(1, price_usd=5.0), WISH, worth=worth)
    assert dear.price_s == pytest.approx(3600 * 5.0 * 200 / 1e6)
    hungry = score(offer(1, model=card(watts=100.0)), WISH, worth=worth)
    assert hungry.energy_s == pytest.approx(0.01 * 100.0 * 3.0)
    assert hungry.total_s == pytest.approx(score(offer(1), WISH).total_s + 3.0)
    assert (
        score(offer(1, price_usd=5.0, model=card(watts=100.0)), WISH).total_s == score(offer(1), WISH).total_s
    )


def test_this_node_costs_no_round_trip() -> None:
    assert score(at_home(), WISH).rtt_s == 0.0
    assert score(offer(1, rtt_ms=None), WISH).rtt_s > 0.1


def test_a_node_that_runs_others_is_slower_for_each_and_faster_in_all() -> None:
    assert crowding(card(), 0) == 1.0
    assert crowding(card(), 3) == 2.0
    assert crowding(card(), 100) == 2.0
    assert crowding(card(slots=1), 5) == 1.0


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


def test_auto_for_a_task_prefers_what_is_good_at_it() -> None:
    talker, coder = offer(1, model=card("gemma3:4b")), offer(2, model=card("qwen2.5:7b"))
    costs = {
        task: [score(one, WISH, auto=True, task=task).total_s for one in (talker, coder)] for task in TASKS
    }
    assert costs["chat"][0] < costs["chat"][1]
    assert costs["code"][0] > costs["code"][1]


def test_the_owners_ratings_decide_for_auto() -> None:
    worth = Worth(qualities=Qualities([Rating(name="smollm2:135m", code=99.0)]))
    own, better = offer(1, model=card("smollm2:135m")), offer(2, model=card("qwen2.5:7b"))
    costs = [score(one, WISH, auto=True, task="code", worth=worth).total_s for one in (own, better)]
    assert costs == sorted(costs)
