"""What an answer costs: each node's tokens at its own price, and nothing twice."""

import pytest
import trio

from meshnode.errors import Unreachable
from meshnode.serve.bill import Bill
from meshnode.terms import Candidate, End, Usage
from tests.routing.offers import job, offer
from tests.routing.test_cloud import api
from tests.serve.test_walk import END, Stage, Step, piece


def usage(tokens: int, prompt: int = 10) -> Usage:
    return Usage(prompt, tokens)


def test_one_node_is_paid_for_all_that_it_wrote() -> None:
    bill = Bill()
    bill.goes_to(offer(1, price_usd=2.0), 0)
    assert bill.total_nusd(usage(500)) == 1_000_000


def test_each_node_is_paid_for_its_own_tokens() -> None:
    bill = Bill()
    bill.goes_to(offer(1, price_usd=2.0), 0)
    bill.goes_to(offer(2, price_usd=0.5), 100)
    bill.goes_to(offer(3), 300)
    assert bill.total_nusd(usage(500)) == 200_000 + 100_000


def test_what_was_there_before_costs_nothing() -> None:
    bill = Bill(400)
    bill.goes_to(offer(1, price_usd=2.0), 400)
    assert bill.total_nusd(usage(500)) == 200_000


def test_who_wrote_nothing_is_paid_nothing() -> None:
    bill = Bill()
    bill.goes_to(offer(1, price_usd=9.0), 0)
    bill.goes_to(offer(2, price_usd=1.0), 0)
    assert bill.total_nusd(usage(5)) == 5000
    assert Bill().total_nusd(usage(5)) == 0


def test_an_api_is_paid_by_its_own_price_for_both() -> None:
    bill = Bill()
    bill.goes_to(api(), 0)
    assert bill.total_nusd(usage(500, 1000)) == 1000 * 1000 + 500 * 2000


class PricedStage(Stage):
    """As the walk's, where candidate n asks n + 1 USD."""

    async def choose(self, job: object) -> tuple[Candidate, ...]:
        return tuple(offer(number, price_usd=number + 1.0) for number in range(len(self.scripts)))


@pytest.mark.parametrize(
    ("first", "cost_nusd"),
    [([piece(0), piece(1), END], 2 * 1000), ([piece(0), Unreachable("gone")], 1000 + 2000)],
    ids=["one", "two, a token each"],
)
async def test_the_end_of_an_answer_says_what_it_cost(first: list[Step], cost_nusd: int) -> None:
    stage = PricedStage(first, [piece(1), END])
    async with stage.walk.ask(job()) as running:
        *_, end = [one async for one in running.pieces]
    assert isinstance(end, End)
    assert end.usage.cost_nusd == cost_nusd
    await trio.lowlevel.checkpoint()
