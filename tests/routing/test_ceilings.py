"""What a job may cost and take at most: who is ruled out by it, and who rules itself out."""

import random

import msgspec
import pytest

from meshnode.errors import BudgetExceeded, NoCandidate
from meshnode.routing.ceilings import asks_more, most_joules, most_tokens, most_usd, refusal
from meshnode.routing.plan import Choice, Plan, make_plan
from meshnode.routing.policy import Reason
from meshnode.routing.probing import Asking, Reply
from meshnode.routing.router import Router
from meshnode.routing.score import Known
from meshnode.terms import Candidate, Job, Sampling
from tests.routing.offers import at_home, card, job, offer
from tests.routing.test_cloud import api

WATTS = card(watts=50.0)  # 100 tokens/s written, 500 read


def asked(max_tokens: int = 1000, *, price_usd: float | None = None, **wish: float) -> Job:
    made = msgspec.structs.replace(job(**wish), sampling=Sampling(max_tokens=max_tokens))
    return msgspec.structs.replace(made, price_usd=price_usd)


def reasons(made: Job, *candidates: Candidate) -> list[Reason | None]:
    """For each candidate why it may not serve; None for those that may."""
    plan = make_plan(made, candidates)
    by_node = {one.candidate.node: one.reason for one in plan.rejected}
    return [by_node.get(candidate.node) for candidate in candidates]


def test_an_answer_is_as_long_as_was_asked_for_or_as_the_model_has_room() -> None:
    assert most_tokens(asked(100), card()) == 100
    assert most_tokens(asked(0), card()) == card().context
    assert most_tokens(asked(0), card(context=0)) == float("inf")
    assert most_tokens(Job(id="1", wish=job().wish, turns=(), inputs=("x",)), card()) == 0


def test_the_price_is_for_a_million_answer_tokens() -> None:
    assert most_usd(asked(1000), card(), 2.0) == pytest.approx(0.002)
    assert most_usd(asked(0), card(context=0), 0.0) == 0.0


def test_who_could_cost_more_than_is_allowed_is_ruled_out_anywhere() -> None:
    dear, cheap, free = offer(1, price_usd=3.0), offer(2, price_usd=1.0), offer(3)
    made = asked(1000, max_price_usd=0.002)
    assert reasons(made, dear, cheap, free) == [Reason.PRICE, None, None]
    assert reasons(asked(0, max_price_usd=0.002), dear, cheap, free) == [Reason.PRICE, Reason.PRICE, None]
    assert reasons(asked(1000), dear, cheap) == [None, None]
    assert reasons(asked(1000, max_price_usd=0.0), at_home(), free, cheap) == [None, None, Reason.PRICE]
    assert reasons(asked(1000, max_price_usd=0.005), api(most_usd=0.01)) == [Reason.PRICE]


def test_who_could_take_more_energy_or_cannot_tell_is_ruled_out() -> None:
    frugal, thirsty, mute = (offer(n, model=card(watts=w)) for n, w in ((1, 5.0), (2, 50.0), (3, 0.0)))
    made = asked(1000, max_joules=100.0)  # 10 s of writing, and 0.2 of reading
    assert reasons(made, frugal, thirsty, mute) == [None, Reason.ENERGY, Reason.UNMETERED]
    assert reasons(asked(1000), frugal, thirsty, mute) == [None, None, None]


def test_energy_is_reckoned_with_what_was_measured_and_beside_others() -> None:
    assert most_joules(asked(1000), WATTS) == pytest.approx(50 * 10.2)
    assert most_joules(asked(1000), WATTS, known=Known(prompt_tps=50, generate_tps=10)) == pytest.approx(
        50 * 102
    )
    beside = most_joules(asked(1000), WATTS, in_flight=3)
    assert beside is not None
    assert beside == pytest.approx(50 * 20.2)
    assert most_joules(asked(1000), card()) is None
    slow = {offer(1).node: Known(generate_tps=10.0)}
    plan = make_plan(
        asked(1000, max_joules=1000.0), [offer(1, model=WATTS)], known_of=lambda one: slow[one.node]
    )
    assert [one.reason for one in plan.rejected] == [Reason.ENERGY]


# --- Who is asked ---


PRICES = [(1.0, 1.0, False), (1.1, 1.0, True), (0.9, 1.0, False), (0.1 + 0.2, 0.3, False), (None, 0.0, False)]


@pytest.mark.parametrize(("now_usd", "advertised_usd", "more"), PRICES)
def test_more_than_advertised_is_more(now_usd: float | None, advertised_usd: float, *, more: bool) -> None:
    assert asks_more(now_usd, advertised_usd) is more


def test_a_worker_looks_at_its_own_price_and_the_ceiling() -> None:
    assert refusal(asked(1000, price_usd=2.0), card(), 2.0) is None
    assert refusal(asked(1000), card(), 2.0) is None  # of an older node
    for refused in (
        refusal(asked(1000, price_usd=1.0), card(), 2.0),
        refusal(asked(1000, price_usd=2.0, max_price_usd=0.001), card(), 2.0),
        refusal(asked(1000, max_joules=100.0), WATTS, 0.0),
        refusal(asked(1000, max_joules=1e9), card(), 0.0),
    ):
        assert isinstance(refused, BudgetExceeded)
    assert refusal(asked(1000, max_joules=1000.0, max_price_usd=0.0), WATTS, 0.0) is None


# --- What they answer when they are asked how they are ---


def asking(*offers: Candidate) -> tuple[Plan, Asking, Router]:
    router = Router(random.Random(1))
    plan = router.plan(job(), offers, {}, 0.0, by_lot=False)
    return plan, router.asking(plan, job(), 0.0), router


def choice_for(plan: Plan, candidate: Candidate) -> Choice:
    return next(one for one in plan.choices if one.candidate.node == candidate.node)


def test_who_asks_more_than_it_advertises_is_not_taken_at_all() -> None:
    honest, liar = offer(1, price_usd=1.0), offer(2, price_usd=0.5)
    plan, made, _ = asking(honest, liar)
    made.answered(choice_for(plan, liar), Reply(0, 0, 0, price_usd=5.0))
    made.answered(choice_for(plan, honest), Reply(3, 0, 0, price_usd=1.0))
    assert [one.candidate.node for one in made.ordered()] == [honest.node]
    assert not made.keeps(choice_for(plan, liar))
    assert made.keeps(choice_for(plan, honest))
    view = made.decision().view()
    assert [one.reason for one in view.candidates] == ["", Reason.DEARER]


def test_where_all_do_the_request_is_refused_with_the_reason() -> None:
    plan, made, _ = asking(offer(1), offer(2))
    for choice in plan.choices:
        made.answered(choice, Reply(0, 0, 0, price_usd=1.0))
    decision = made.decision()
    assert decision.choices == ()
    assert isinstance(decision.plan.refusal(), NoCandidate)
    assert Reason.DEARER in decision.plan.refusal().message


def test_who_asks_less_is_reckoned_with_less_and_never_with_more() -> None:
    plan, made, router = asking(offer(1, price_usd=1.0), offer(2, price_usd=1.0))
    made.answered(choice_for(plan, offer(1)), Reply(0, 0, 0, price_usd=0.25))
    made.answered(choice_for(plan, offer(2)), Reply(0, 0, 0))
    assert [one.candidate.price_usd for one in made.ordered()] == [0.25, 1.0]
    router.heard(offer(1, price_usd=1.0), Reply(0, 0, 0, price_usd=7.0), {}, 0.0)
    again = router.plan(job(), [offer(1, price_usd=1.0)], {}, 0.1, by_lot=False)
    assert again.choices[0].candidate.price_usd == 1.0
