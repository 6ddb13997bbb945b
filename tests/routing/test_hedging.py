"""When a request may go to a second node too: for which requests, after how long, and how often."""

import pytest

from meshnode.routing.hedging import (
    AFTER_LEAST_S,
    KINDS_MAX,
    SAVED_MOST,
    SHARE,
    TIMES_KEPT,
    TIMES_LEAST,
    TOLD_MAX,
    Hedging,
    kind_of,
)
from meshnode.routing.retries import FLOOR, RetryBudget
from meshnode.terms import Candidate, Job, Privacy
from tests.routing.offers import at_home, card, job, offer
from tests.routing.test_cloud import api

PUBLIC = job(privacy=Privacy.PUBLIC)
FIRST, OTHER = offer(1), offer(2)


def hedging(*times_s: float, on: bool = True) -> Hedging:
    made = Hedging(RetryBudget(), on=on)
    for took_s in times_s:
        made.began(kind_of(PUBLIC, card()), took_s)
    return made


def test_it_is_off_unless_somebody_turns_it_on() -> None:
    assert Hedging(RetryBudget()).forbidden(PUBLIC, FIRST) == "off"


@pytest.mark.parametrize("privacy", [Privacy.PRIVATE, Privacy.SENSITIVE, Privacy.LOCAL])
def test_no_private_request_goes_to_two_nodes(privacy: Privacy) -> None:
    asked = job(privacy=privacy)
    assert "never for class" in hedging().forbidden(asked, FIRST)
    assert hedging().second(asked, FIRST, (OTHER,)) is None


@pytest.mark.parametrize(
    "first", [api(), offer(1, price_usd=0.5), at_home()], ids=["an API", "a price", "at home"]
)
def test_none_goes_beside_who_is_paid_or_this_node(first: Candidate) -> None:
    assert hedging().second(PUBLIC, first, (OTHER,)) is None


def test_the_second_is_the_best_of_the_others_that_is_free() -> None:
    others = (FIRST, api(number=3), offer(4, price_usd=1.0), OTHER, offer(5))
    assert hedging().second(PUBLIC, FIRST, others) == OTHER
    assert hedging().second(PUBLIC, FIRST, (FIRST, api(number=3))) is None


def test_embeddings_are_not_hedged() -> None:
    asked = Job(id="1", wish=PUBLIC.wish, turns=(), inputs=("x",))
    assert hedging().forbidden(asked, FIRST)


def test_it_waits_as_long_as_nineteen_of_twenty_took() -> None:
    times = [n / 100 for n in range(1, 101)]
    assert hedging(*times).after_s(PUBLIC, card()) == 0.95
    assert hedging(*times[: TIMES_LEAST - 1]).after_s(PUBLIC, card()) is None
    assert hedging(*[0.001] * TIMES_LEAST).after_s(PUBLIC, card()) == AFTER_LEAST_S


def test_only_the_like_count() -> None:
    made = hedging(*[0.5] * TIMES_LEAST)
    assert made.after_s(job(privacy=Privacy.PUBLIC, prompt_tokens=10_000), card()) is None
    assert made.after_s(PUBLIC, card("other:1b")) is None
    assert made.after_s(job(prompt_tokens=70), card()) == 0.5


def test_old_times_and_kinds_make_room() -> None:
    made = hedging(*[9.0] * TIMES_LEAST, *[0.5] * TIMES_KEPT)
    assert made.after_s(PUBLIC, card()) == 0.5
    for number in range(KINDS_MAX):
        made.began((bytes([number]), 1), 1.0)
    assert made.after_s(PUBLIC, card()) is None


def test_one_request_in_twenty_at_most() -> None:
    made, taken = hedging(), 0
    for _ in range(1000):
        made.asked()
        taken += made.take(0.0)
        if taken > FLOOR - 1:  # the budget of retries is another bound
            break
    assert taken == FLOOR
    made, asked = hedging(), 0
    while not made.take(0.0):
        made.asked()
        asked += 1
    assert asked == pytest.approx(1 / SHARE, abs=1)


def test_quiet_times_save_up_only_a_few() -> None:
    made = hedging()
    for _ in range(10_000):
        made.asked()
    assert [made.take(0.0) for _ in range(10)].count(True) == SAVED_MOST


def test_it_draws_on_the_budget_of_retries() -> None:
    budget = RetryBudget()
    made = Hedging(budget, on=True)
    for _ in range(100):
        made.asked()
    for _ in range(FLOOR - 1):
        assert budget.may_retry(0.0)
    assert made.take(0.0)
    assert not made.take(0.0)
    assert not budget.may_retry(0.0)


def test_whoever_asks_is_told() -> None:
    made = hedging(*[0.5] * TIMES_LEAST)
    assert made.account(PUBLIC, FIRST) == "after 0.500 s without a token"
    assert hedging().account(PUBLIC, FIRST) == "too few of the like yet"
    assert hedging(on=False).account(PUBLIC, FIRST) == "off"
    assert hedging().account(job(), FIRST) == "never for class private"
    assert hedging().account(PUBLIC, None) == ""
    made.tell(PUBLIC, "it won")
    assert made.account(PUBLIC, FIRST) == "it won"
    for number in range(TOLD_MAX):
        made.tell(Job(id=f"other {number}", wish=PUBLIC.wish, turns=()), "lost")
    assert made.account(PUBLIC, FIRST) == "after 0.500 s without a token"
