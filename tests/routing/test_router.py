"""What a router learns from its own requests, as plays: measured speeds, breakers, liars, and who recovers."""

import random

import pytest

from meshnode.errors import Busy
from meshnode.routing.breaker import OPENS_S, Outcome
from meshnode.routing.ledger import key_of
from meshnode.routing.plan import Choice, Plan
from meshnode.routing.policy import Reason
from meshnode.routing.probing import Reply
from meshnode.routing.router import Router
from meshnode.terms import Candidate
from tests.routing.offers import card, job, offer

SERVE_TPS = 100.0


class Stage:
    """Peers of one real speed, one slot each, whose queues are worked off as time goes on."""

    def __init__(self, *offers: Candidate) -> None:
        self.router = Router(random.Random(1))
        self.offers = list(offers)
        self.now = 0.0
        self.free_at = dict.fromkeys((one.node for one in offers), 0.0)
        self.served = dict.fromkeys((one.node for one in offers), 0)

    def plan(self) -> Plan:
        return self.router.plan(job(), self.offers, {}, self.now, by_lot=False)

    def ask(self) -> None:
        """One request, sent to whom the answers favour; a liar says that it is idle."""
        asking = self.router.asking(self.plan(), job(), self.now)
        for choice in asking.asked:
            reply = self.reply(choice.candidate)
            asking.answered(choice, reply)
            self.router.heard(choice.candidate, reply, {}, self.now)
        self.serve(asking.ordered()[0])

    def reply(self, candidate: Candidate) -> Reply:
        left_s = max(0.0, self.free_at[candidate.node] - self.now)
        if candidate.card.generate_tps > SERVE_TPS:
            return Reply(0, 0, 0)
        return Reply(int(left_s > 0), 0, int(left_s * SERVE_TPS))

    def serve(self, choice: Choice) -> None:
        node = choice.candidate.node
        flight = self.router.sent(choice, job(), {}, self.now)
        self.served[node] += 1
        begins = max(self.now, self.free_at[node]) + 0.2
        self.free_at[node] = ends = begins + 1.0
        flight.tokens(1, begins)
        flight.tokens(99, ends)
        flight.ended(Outcome.SERVED, ends)


def slow(number: int, **facts: float) -> Candidate:
    return offer(number, model=card(slots=1, batch_gain=1.0, **facts))


def test_a_liar_that_says_it_is_ten_times_as_fast_gets_no_more_than_twice_its_share() -> None:
    liar = slow(9, prompt_tps=5000.0, generate_tps=1000.0)
    stage = Stage(*(slow(number) for number in range(1, 9)), liar)
    for _ in range(300):
        stage.now += 0.2
        stage.ask()
    assert stage.now == pytest.approx(60.0)
    assert stage.served[liar.node] <= 2 * 300 / 9
    assert stage.served[liar.node] > 0


def test_a_request_counts_until_it_ends_and_tells_how_fast_its_node_is() -> None:
    stage = Stage(offer(1))
    (choice,) = stage.plan().choices
    flight = stage.router.sent(choice, job(), {}, 0.0)
    (busier,) = stage.plan().choices
    assert busier.known.sent_prefill == 100
    flight.tokens(1, 1.0)
    flight.tokens(99, 11.0)
    flight.ended(Outcome.SERVED, 11.0)
    flight.ended(Outcome.FAILED, 11.0)  # once is enough
    stage.now = 11.0
    (after,) = stage.plan().choices
    assert after.known.sent == 0
    assert after.known.generate_tps == pytest.approx(9.9)
    assert after.known.proven


def test_a_few_tokens_tell_nothing_of_a_speed() -> None:
    stage = Stage(offer(1))
    flight = stage.router.sent(stage.plan().choices[0], job(), {}, 0.0)
    flight.tokens(2, 0.2)
    flight.ended(Outcome.SERVED, 10.0)
    assert stage.plan().choices[0].known.generate_tps == pytest.approx(100.0)


def test_what_a_node_told_counts_until_its_vitals_are_newer() -> None:
    router = Router(random.Random(1))
    router.heard(offer(1), Reply(4, 5000, 0), {offer(1).node: 3}, 1.0)
    assert router.plan(job(), [offer(1)], {offer(1).node: 3}, 1.0).choices[0].score.wait_s == 10.0
    assert router.plan(job(), [offer(1)], {offer(1).node: 4}, 1.0).choices[0].score.wait_s == 0.0


def test_who_is_silent_once_is_left_alone_then_tried_then_back() -> None:
    stage = Stage(offer(1), offer(2))
    first = stage.plan().choices[0]
    stage.router.sent(first, job(), {}, 0.0).ended(Outcome.SILENT, 12.0)
    stage.now = 12.0
    plan = stage.plan()
    assert [one.candidate for one in plan.rejected] == [first.candidate]
    assert plan.rejected[0].reason is Reason.BREAKER
    stage.now += OPENS_S
    asking = stage.router.asking(stage.plan(), job(), stage.now)
    for choice in asking.asked:
        asking.answered(choice, Reply(0, 0, 0))
    trial = asking.ordered()[0]
    assert key_of(trial.candidate) == key_of(first.candidate)
    flight = stage.router.sent(trial, job(), {}, stage.now)
    assert len(stage.plan().choices) == 1
    flight.ended(Outcome.SERVED, stage.now)
    assert len(stage.plan().choices) == 2


def test_with_nobody_else_who_fails_fast_is_tried_and_who_hangs_is_not() -> None:
    for outcome, choices in ((Outcome.FAILED, 1), (Outcome.SILENT, 0)):
        stage = Stage(offer(1))
        for _ in range(3):
            (choice,) = stage.plan().choices
            stage.router.sent(choice, job(), {}, 0.0).ended(outcome, 0.0)
            if outcome is Outcome.SILENT:
                break
        plan = stage.plan()
        assert len(plan.choices) == choices
        if not choices:
            refusal = plan.refusal()
            assert isinstance(refusal, Busy)
            assert Reason.BREAKER in refusal.message


def test_what_says_nothing_about_a_node_opens_nothing() -> None:
    stage = Stage(offer(1))
    for _ in range(9):
        stage.router.sent(stage.plan().choices[0], job(), {}, 0.0).ended(None, 0.0)
    assert stage.plan().choices


def test_who_cannot_even_be_asked_three_times_is_left_alone() -> None:
    stage = Stage(offer(1), offer(2))
    for _ in range(3):
        stage.router.failed(offer(1), 0.0)
    assert [choice.candidate.node[0] for choice in stage.plan().choices] == [2]
