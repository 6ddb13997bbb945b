"""The prior: more difference is never likelier, and what the traps reached is not answered."""

from meshnode.cache.prior import FEATURES, SHIPPED, features, logistic
from tests.cache.small_cache import found

SAME = found("How do I change it?", "how do i change it")
SLIP = found("How do I change it?", "How do I chnage it?")
SYNONYM = found("Is it a big cat?", "Is it a large cat?")
RELATION = found("Can I pay within the week?", "Can I pay after the week?")


def test_no_kind_of_difference_makes_one_answer_likelier() -> None:
    assert len(SHIPPED.weights) == len(FEATURES) == len(features(SAME))
    assert all(weight <= 0 for weight in SHIPPED.weights[1:])


def test_slips_and_synonyms_are_answered_and_other_small_words_are_not() -> None:
    chances = [SHIPPED.probability(one) for one in (SAME, SLIP, SYNONYM)]
    assert chances[0] == SHIPPED.probability_of_same
    assert all(chance >= SHIPPED.least for chance in chances)
    assert SHIPPED.probability(RELATION) < SHIPPED.least


def test_the_logistic_function_bears_any_number() -> None:
    assert (logistic(-1e9), logistic(0), logistic(1e9)) == (0.0, 0.5, 1.0)
