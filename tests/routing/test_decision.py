"""Why a request runs where it does: everybody is named once, with terms that add up or one reason."""

import random

import pytest

from meshnode.routing.decision import Decision
from meshnode.routing.policy import Reason
from meshnode.routing.probing import Reply
from meshnode.routing.router import Router
from meshnode.terms import Place, Trust
from tests.routing.offers import at_home, job, offer


def test_every_candidate_is_named_once_with_its_terms_or_its_reason() -> None:
    router, wish = Router(random.Random(1)), job(place=Place.MESH)
    offers = [at_home(), offer(1), offer(2, queued_prefill=500), offer(3, trust=Trust.MEMBER)]
    plan = router.plan(wish, offers, {}, 0.0, by_lot=False)
    view = Decision(plan, plan.choices).view()
    assert [one.place for one in view.candidates] == [1, 2, 0, 0]
    assert [one.reason for one in view.candidates] == ["", "", Reason.PLACE, Reason.PRIVACY]
    for one in view.candidates[:2]:
        assert sum(one.terms.values()) == pytest.approx(one.total_s, abs=1e-3)
        assert (one.rung, one.asked) == ("trusted", False)
    assert view.refusal == ""


def test_it_tells_who_was_asked_and_who_answered() -> None:
    router = Router(random.Random(1))
    plan = router.plan(job(), [offer(1), offer(2)], {}, 0.0)
    asking = router.asking(plan, job(), 0.0)
    asking.answered(asking.asked[0], Reply(3, 0, 0))
    first, second = asking.decision().view().candidates
    assert (first.asked, first.answered, first.in_flight) == (True, True, 3)
    assert (second.asked, second.answered) == (True, False)


def test_nobody_may_serve() -> None:
    plan = Router(random.Random(1)).plan(job(model="llama4:70b"), [offer(1)], {}, 0.0)
    view = Decision(plan, plan.choices).view()
    assert "llama4:70b" in view.refusal
    assert [one.place for one in view.candidates] == [0]
