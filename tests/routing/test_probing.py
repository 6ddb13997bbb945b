"""Whom to ask, when enough have answered, and whom to take: plays of one decision."""

import random
from collections import Counter

from meshnode.routing.ledger import Key, key_of
from meshnode.routing.plan import Choice, Plan, choice_of, make_plan
from meshnode.routing.policy import parse_model
from meshnode.routing.probing import ASKED_MOST, EXPLORED_SHARE, WAIT_LATEST_S, Asking, Reply, held_s
from meshnode.routing.router import Router
from meshnode.routing.score import Known, Worth
from meshnode.terms import Candidate
from tests.routing.offers import at_home, card, job, offer

IDLE = Reply(0, 0, 0)
PROVEN = Known(proven=True)


def planned(*offers: Candidate, **known: Known) -> Plan:
    facts = {int(name[1:]): fact for name, fact in known.items()}
    return make_plan(job(), offers, known_of=lambda one: facts.get(one.node[0], PROVEN))


def asking(plan: Plan, seed: int = 1, due: Key | None = None) -> Asking:
    def rescore(choice: Choice, reply: Reply) -> Choice:
        told = Candidate(
            node=choice.candidate.node,
            card=choice.candidate.card,
            trust=choice.candidate.trust,
            path=choice.candidate.path,
            rtt_ms=choice.candidate.rtt_ms,
            in_flight=reply.in_flight,
            queued_prefill=reply.queued_prefill,
        )
        return choice_of(told, job().wish, parse_model(""), Known(first_token_s=reply.first_token_s), Worth())

    return Asking(plan, rescore, random.Random(seed), 0.0, lambda key: key == due)


def nodes(choices: tuple[Choice, ...]) -> list[int]:
    return [choice.candidate.node[0] for choice in choices]


def test_nobody_is_asked_where_there_is_nothing_to_choose() -> None:
    for plan in (planned(offer(1)), planned(at_home(), offer(1), offer(2)), planned()):
        question = asking(plan)
        assert question.asked == ()
        assert question.settled(0.0)
        assert question.ordered() == plan.choices


def test_a_few_are_asked_the_best_among_them_and_the_rest_by_capacity() -> None:
    slow = [offer(n, model=card(generate_tps=1.0)) for n in range(1, 6)]
    fast = [offer(n, queued_prefill=500 * n) for n in range(6, 10)]
    counts = Counter(n for seed in range(300) for n in nodes(asking(planned(*slow, *fast), seed).asked))
    assert counts[6] == 300
    assert sum(counts.values()) == 300 * ASKED_MOST
    assert sum(counts[n] for n in range(1, 6)) < 60


def test_who_has_most_of_the_prompt_is_always_asked() -> None:
    offers = [offer(n) for n in range(1, 9)] + [offer(9, queued_prefill=9000)]
    plan = planned(*offers, _9=Known(matched_prefix=80, proven=True))
    assert all(9 in nodes(asking(plan, seed).asked) for seed in range(50))


def test_the_answers_decide_and_not_what_was_known_before() -> None:
    plan = planned(offer(1), offer(2, queued_prefill=100), offer(3, queued_prefill=200))
    question = asking(plan)
    for choice, queued in zip(question.asked, (9000, 4000, 0), strict=True):
        question.answered(choice, Reply(1, queued, 0))
    last = question.asked[-1].candidate.node[0]
    assert nodes(question.ordered())[0] == last
    assert len(question.ordered()) == 3


def test_nobody_is_waited_for_who_cannot_do_better() -> None:
    plan = planned(offer(1), offer(2, rtt_ms=400.0), offer(3, rtt_ms=500.0))
    question = asking(plan)
    near = next(choice for choice in question.asked if choice.candidate.node[0] == 1)
    assert not question.settled(0.01)
    question.answered(near, IDLE)
    assert question.settled(0.01)
    question = asking(plan)
    question.answered(near, Reply(1, 5000, 0))
    assert not question.settled(0.01)


def test_silence_ends_with_time_and_falls_back_to_the_plan() -> None:
    plan = planned(offer(1, rtt_ms=9000.0), offer(2, rtt_ms=9000.0))
    question = asking(plan)
    assert not question.settled(WAIT_LATEST_S - 0.01)
    assert question.settled(WAIT_LATEST_S)
    assert question.ordered() == plan.choices


def test_who_answered_goes_before_who_is_silent_and_who_refused_comes_last() -> None:
    plan = planned(offer(1), offer(2), offer(3), offer(4))
    question = asking(plan)
    silent, refusing, answering = question.asked
    question.answered(refusing, Reply(9, 0, 0, accepting=False))
    question.answered(answering, Reply(1, 9000, 0))
    order = [key_of(choice.candidate) for choice in question.ordered()]
    assert order[0] == key_of(answering.candidate)
    assert order[-2:] == [key_of(silent.candidate), key_of(refusing.candidate)]
    question.failed(silent)
    assert question.settled(0.0)


def test_who_was_not_seen_lately_gets_a_share_where_it_costs_little() -> None:
    def firsts(stranger: Candidate) -> int:
        plan = planned(*(offer(n, rtt_ms=5.0) for n in range(1, 4)), stranger, _9=Known())
        taken = 0
        for seed in range(1000):
            question = asking(plan, seed)
            for choice in question.asked:
                question.answered(
                    choice, Reply(choice.candidate.in_flight, choice.candidate.queued_prefill, 0)
                )
            taken += nodes(question.ordered())[0] == 9
        return taken

    assert 0.5 * EXPLORED_SHARE < firsts(offer(9, rtt_ms=80.0)) / 1000 < 1.5 * EXPLORED_SHARE
    assert firsts(offer(9, queued_prefill=90_000, in_flight=9)) == 0


def test_who_failed_and_is_due_is_tried_by_the_next_request() -> None:
    plan = planned(*(offer(n) for n in range(1, 8)))
    due = offer(7)
    question = asking(plan, due=key_of(due))
    for choice in question.asked:
        question.answered(choice, IDLE)
    assert nodes(question.ordered())[0] == 7


def test_a_place_is_kept_for_two_round_trips_within_bounds() -> None:
    assert [held_s(rtt_ms) for rtt_ms in (None, 10.0, 400.0, 9e9)] == [0.5, 0.5, 0.8, 4.0]


def test_a_stranger_that_boasts_is_not_asked_more_often_than_is_usual() -> None:
    offers = [offer(n, queued_prefill=1) for n in range(1, 20)]
    boasts = offer(20, model=card(generate_tps=9e9), queued_prefill=9_000_000)
    plan = planned(*offers, boasts, _20=Known())
    asked = Counter(n for seed in range(500) for n in nodes(asking(plan, seed).asked))
    assert asked[20] < 500 * 0.25


def test_a_router_asks_those_it_planned() -> None:
    router = Router(random.Random(1))
    plan = router.plan(job(), [offer(1), offer(2)], {}, 0.0)
    assert len(router.asking(plan, job(), 0.0).asked) == 2
