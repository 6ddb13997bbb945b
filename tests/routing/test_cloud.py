"""The rung of commercial APIs: who may go there, for how much, and that it comes last."""

import pytest

from meshnode.errors import BudgetExceeded, Busy, NoCandidate
from meshnode.routing.decision import Decision
from meshnode.routing.plan import Rung, make_plan
from meshnode.routing.policy import Reason
from meshnode.routing.probing import first_rung
from meshnode.terms import Candidate, CloudOffer, Place, Price, Privacy, Trust
from tests.routing.offers import at_home, card, job, offer


def api(name: str = "openai", number: int = 99, **facts) -> Candidate:
    base = {
        "api": name,
        "model": "big",
        "price": Price(1.0, 2.0),
        "privacy": ("public", "private"),
        "most_usd": 0.01,
        "request_usd": 1.0,
        "left_usd": 5.0,
    }
    terms = {key: facts.pop(key) for key in list(facts) if key in base}
    return offer(number, trust=Trust.NONE, rtt_ms=None, cloud=CloudOffer(**{**base, **terms}), **facts)


def rungs(plan) -> list[Rung]:
    return [choice.rung for choice in plan.choices]


def reason(candidate: Candidate, **wish) -> Reason | None:
    plan = make_plan(job(**wish), [candidate])
    return plan.rejected[0].reason if plan.rejected else None


def test_it_is_the_last_rung_and_the_mesh_is_known_apart() -> None:
    member = offer(2, trust=Trust.MEMBER)
    plan = make_plan(job(privacy=Privacy.PUBLIC), [api(), member, offer(1), at_home()])
    assert rungs(plan) == [Rung.LOCAL, Rung.TRUSTED, Rung.MEMBERS, Rung.CLOUD]
    assert [choice.rung for choice in plan.on_mesh] == rungs(plan)[:3]


def test_it_is_taken_on_a_capability_miss_and_given_up_by_itself() -> None:
    assert rungs(make_plan(job(), [api(), at_home(accepting=False)])) == [Rung.CLOUD]
    assert rungs(make_plan(job(), [api(), at_home()]))[0] is Rung.LOCAL


def test_it_is_taken_when_the_mesh_would_be_too_late() -> None:
    fast = card(prompt_tps=5000.0)
    late = at_home(queued_prefill=600)
    assert rungs(make_plan(job(deadline_ms=1000), [late, api(model=fast)]))[0] is Rung.CLOUD
    assert rungs(make_plan(job(), [late, api(model=fast)]))[0] is Rung.LOCAL


def test_apis_keep_the_order_of_their_owner_although_one_is_faster() -> None:
    fast = card(prompt_tps=5000.0, generate_tps=1000.0)
    plan = make_plan(job(), [api("first", 98), api("second", 97, model=fast)])
    assert [choice.candidate.cloud.api for choice in plan.choices] == ["first", "second"]


@pytest.mark.parametrize(
    ("facts", "wish", "expected"),
    [
        ({}, {}, None),
        ({"privacy": ("public",)}, {}, Reason.CLASS),
        ({"privacy": ("public",)}, {"privacy": Privacy.PUBLIC}, None),
        ({"privacy": ("private",)}, {"privacy": Privacy.PUBLIC}, Reason.CLASS),
        ({"privacy": ("sensitive", "local")}, {"privacy": Privacy.SENSITIVE}, Reason.CLASS),
        ({"privacy": ("sensitive", "local")}, {"privacy": Privacy.LOCAL}, Reason.CLASS),
        ({}, {"place": Place.LOCAL}, Reason.PLACE),
        ({}, {"place": Place.MESH}, Reason.PLACE),
        ({}, {"place": Place.CLOUD}, None),
        ({}, {"max_price_usd": 0.01}, None),
        ({}, {"max_price_usd": 0.0099}, Reason.PRICE),
        ({}, {"max_price_usd": 0.0}, Reason.PRICE),
        ({"most_usd": 0.0}, {"cloud": False}, Reason.PLACE),
        ({"most_usd": 0.0}, {"max_price_usd": 0.0}, None),
        ({"left_usd": 0.0099}, {}, Reason.BUDGET),
        ({"left_usd": -1.0, "most_usd": 0.0}, {}, Reason.BUDGET),
        ({"request_usd": 0.0099}, {}, Reason.BUDGET),
        ({"accepting": False}, {}, Reason.BUSY),
        ({}, {"residency": ("eu",)}, Reason.RESIDENCY),
        ({"labels": ("eu",)}, {"residency": ("eu",)}, None),
        ({}, {"signed_by": ("ab" * 32,)}, Reason.SIGNER),
        ({}, {"min_tier": 6}, Reason.TIER),
        ({}, {"features": ("token-ids",)}, Reason.FEATURES),
    ],
)
def test_each_has_its_one_reason(facts, wish, expected) -> None:
    assert reason(api(**facts), **wish) is expected


def test_route_cloud_leaves_the_mesh_out() -> None:
    plan = make_plan(job(place=Place.CLOUD), [at_home(), offer(1), api()])
    assert rungs(plan) == [Rung.CLOUD]
    assert {one.reason for one in plan.rejected} == {Reason.PLACE}


def test_a_refusal_says_what_is_in_the_way() -> None:
    short = make_plan(job(), [api(left_usd=0.001)]).refusal()
    assert isinstance(short, BudgetExceeded)
    assert "openai (up to 0.010000 USD, 0.001000 left this month)" in str(short)
    assert isinstance(make_plan(job(), [api(left_usd=0.0), at_home(accepting=False)]).refusal(), Busy)
    assert isinstance(make_plan(job(), [api(privacy=())]).refusal(), NoCandidate)


def test_an_explanation_names_the_api_and_its_rung() -> None:
    plan = make_plan(job(), [api()])
    (told,) = Decision(plan, plan.choices).view().candidates
    assert (told.node, told.model, told.rung) == ("openai", "smollm2:135m", "cloud")


def test_an_api_is_not_asked_how_it_is() -> None:
    assert first_rung(make_plan(job(), [api(), api()])) == []
