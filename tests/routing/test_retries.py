"""How many requests may be tried again."""

from meshnode.routing.retries import FLOOR, REQUESTS_MAX, WINDOW_S, RetryBudget


def may(budget: RetryBudget, now: float = 0.0) -> int:
    """How many retries there are in one moment."""
    count = 0
    while count < 10_000 and budget.may_retry(now):
        count += 1
    return count


def test_a_few_always_and_a_tenth_beyond() -> None:
    budget = RetryBudget()
    assert may(budget) == FLOOR
    budget = RetryBudget()
    for _ in range(200):
        budget.asked(0.0)
    assert may(budget) == FLOOR + 20


def test_what_was_long_ago_counts_no_longer() -> None:
    budget = RetryBudget()
    for _ in range(200):
        budget.asked(0.0)
    assert may(budget) == FLOOR + 20
    assert may(budget, WINDOW_S - 0.1) == 0
    assert may(budget, WINDOW_S) == FLOOR


def test_it_remembers_no_more_than_it_may() -> None:
    budget = RetryBudget()
    for _ in range(REQUESTS_MAX + 100):
        budget.asked(0.0)
    assert may(budget) == FLOOR + REQUESTS_MAX // 10 + 1
