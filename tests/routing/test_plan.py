"""The ladder: who goes first, when a rung is passed over, and what is said about the rest."""

import random
from collections import Counter

from meshnode.errors import Busy, ModelNotFound, NoCandidate
from meshnode.routing.plan import Plan, Rung, make_plan
from meshnode.routing.policy import Reason
from meshnode.terms import Candidate, Privacy, Trust
from tests.routing.offers import at_home, card, job, offer


def first(plan: Plan) -> Candidate:
    return plan.choices[0].candidate


def rungs(plan: Plan) -> list[Rung]:
    return [choice.rung for choice in plan.choices]


def test_this_node_goes_first_although_a_peer_is_faster() -> None:
    fast = card(prompt_tps=5000.0, generate_tps=1000.0)
    plan = make_plan(job(), [offer(1, model=fast), at_home()])
    assert rungs(plan) == [Rung.LOCAL, Rung.TRUSTED]


def test_trusted_peers_go_before_other_members() -> None:
    plan = make_plan(
        job(privacy=Privacy.PUBLIC), [offer(1, trust=Trust.MEMBER), offer(2, rtt_ms=300.0), at_home()]
    )
    assert rungs(plan) == [Rung.LOCAL, Rung.TRUSTED, Rung.MEMBERS]


def test_down_on_a_capability_miss() -> None:
    plan = make_plan(job(model="qwen3:8b"), [at_home(), offer(1, model=card("qwen3:8b"))])
    assert first(plan).node == bytes([1]) * 20
    assert [one.reason for one in plan.rejected] == [Reason.MODEL]


def test_down_when_the_next_rung_starts_much_sooner_and_back_as_a_later_choice() -> None:
    loaded = at_home(queued_prefill=5000)
    plan = make_plan(job(), [loaded, offer(1)])
    assert rungs(plan) == [Rung.TRUSTED, Rung.LOCAL]
    assert rungs(make_plan(job(), [at_home(), offer(1)])) == [Rung.LOCAL, Rung.TRUSTED]


def test_not_down_within_two_seconds_nor_for_a_little() -> None:
    assert rungs(make_plan(job(), [at_home(queued_prefill=800), offer(1)]))[0] is Rung.LOCAL
    busy_peer = offer(1, queued_prefill=1500)
    assert rungs(make_plan(job(), [at_home(queued_prefill=2500), busy_peer]))[0] is Rung.LOCAL


def test_down_when_the_deadline_would_be_missed() -> None:
    tight = job(deadline_ms=1_000)
    assert rungs(make_plan(tight, [at_home(queued_prefill=600), offer(1)]))[0] is Rung.TRUSTED


def test_a_deadline_that_nobody_meets_gates_nobody() -> None:
    plan = make_plan(job(deadline_ms=1), [at_home(), offer(1)])
    assert len(plan.choices) == 2
    assert rungs(plan)[0] is Rung.LOCAL


def test_two_rungs_down() -> None:
    loaded = offer(1, queued_prefill=5000)
    member = offer(2, trust=Trust.MEMBER)
    plan = make_plan(job(privacy=Privacy.PUBLIC), [at_home(queued_prefill=20_000), loaded, member])
    assert rungs(plan) == [Rung.MEMBERS, Rung.LOCAL, Rung.TRUSTED]


def test_a_busy_rung_is_passed_over() -> None:
    plan = make_plan(job(), [at_home(accepting=False), offer(1)])
    assert rungs(plan) == [Rung.TRUSTED]


def test_the_least_cost_goes_first_on_a_rung() -> None:
    plan = make_plan(job(), [offer(n, queued_prefill=1000 - n) for n in range(1, 6)])
    assert [choice.candidate.node[0] for choice in plan.choices] == [5, 4, 3, 2, 1]


def test_two_choices_by_capacity_spread_the_load_and_favour_the_fast() -> None:
    offers = [offer(n, model=card(generate_tps=100.0 if n > 2 else 10.0)) for n in range(1, 7)]
    rng = random.Random(1)
    firsts = Counter(first(make_plan(job(), offers, rng=rng)).node[0] for _ in range(2000))
    assert len(firsts) >= 4
    assert firsts[1] + firsts[2] < 2000 * 0.02
    plan = make_plan(job(), offers, rng=rng)
    assert sorted(choice.candidate.node[0] for choice in plan.choices) == [1, 2, 3, 4, 5, 6]


def test_a_tried_pair_is_left_out_but_not_the_nodes_other_models() -> None:
    other = card("smollm2:135m", quant="Q8_0", tier=6, digest=b"8" * 32)
    plan = make_plan(job(), [offer(1), offer(1, model=other)], tried=[(bytes([1]) * 20, card().digest)])
    assert [choice.candidate.card for choice in plan.choices] == [other]


def test_after_a_count_only_models_with_the_context_are_left() -> None:
    roomy = offer(2, model=card(context=32_768))
    plan = make_plan(job(), [offer(1), roomy], counted_tokens=5000)
    assert [choice.candidate for choice in plan.choices] == [roomy]


def test_nobody_has_it() -> None:
    error = make_plan(job(model="llama4:70b"), [at_home(), offer(1)]).refusal()
    assert isinstance(error, ModelNotFound)
    assert "llama4:70b" in error.message
    assert error.param == "model"


def test_somebody_has_it_but_may_not() -> None:
    error = make_plan(job(), [offer(1, trust=Trust.MEMBER)]).refusal()
    assert isinstance(error, NoCandidate)
    assert Reason.PRIVACY in error.message


def test_somebody_has_it_but_is_full() -> None:
    error = make_plan(job(), [at_home(accepting=False)]).refusal()
    assert isinstance(error, Busy)
    assert error.retry_after_s


def test_a_node_that_would_rather_not_is_asked_after_others_that_are_not_much_slower() -> None:
    rather_not = offer(1, deprioritised=True)
    plan = make_plan(job(), [rather_not, offer(2, rtt_ms=500.0)])
    assert [choice.candidate.node for choice in plan.choices] == [offer(2).node, rather_not.node]
    plan = make_plan(job(), [rather_not, offer(2, rtt_ms=2500.0)])
    assert plan.choices[0].candidate == rather_not
