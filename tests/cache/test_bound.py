"""The online bound: labels only tighten, and what is answered wrongly stays within delta whatever the truth is."""

import random
import statistics

import pytest

from meshnode.cache.bound import DELTA, LEAST_EXPLORED, Label, Tally, chance_right, explores, share_explored

PRIOR = 0.9886
CALM = Tally(right=5000)


def test_labels_never_raise_what_the_prior_says() -> None:
    labels = [Label(0.9, True)] * 50
    assert chance_right(PRIOR, 0.95, labels, CALM) == PRIOR


def test_a_wrong_label_counts_at_any_similarity_and_a_right_one_only_above_its_own() -> None:
    wrong, right = Label(0.5, False), Label(0.99, True)
    assert chance_right(PRIOR, 0.95, [wrong], CALM) < 1 - DELTA
    unlike = chance_right(PRIOR, 0.95, [wrong, *[right] * 30], CALM)
    assert unlike == chance_right(PRIOR, 0.95, [wrong], CALM)
    assert chance_right(PRIOR, 0.99, [wrong, *[right] * 30], CALM) > unlike


def test_a_tenants_labels_tighten_entries_that_have_none() -> None:
    assert chance_right(PRIOR, 0.95, [], Tally(10, 10)) < 0.6


def test_the_model_is_asked_as_often_as_the_bound_needs_and_never_quite_seldom() -> None:
    assert share_explored(PRIOR, Tally()) == 0.5
    assert share_explored(PRIOR, CALM) == LEAST_EXPLORED
    chance = 0.9
    share = share_explored(chance, CALM)
    assert (1 - share) * (1 - chance) == pytest.approx(0.7 * DELTA)


def stream(rights: list[float], length: int, seed: int, *, learn: bool = True) -> float:
    """The share of wrong answers among all that passed the prior."""
    rng = random.Random(seed)
    labels: list[list[Label]] = [[] for _ in rights]
    tally, wrong = Tally(), 0
    for _ in range(length):
        entry = rng.randrange(len(rights))
        right = rng.random() < rights[entry]
        if explores(chance_right(PRIOR, PRIOR, labels[entry], tally), tally, rng):
            if learn:
                labels[entry].append(Label(PRIOR, right))
                tally = tally.with_label(right)
        else:
            wrong += not right
    return wrong / length


STREAMS = {
    "right": [0.99] * 50,
    "mostly": [0.9] * 50,
    "half": [0.5] * 50,
    "never": [0.0] * 50,
    "some": [0.99] * 45 + [0.0] * 5,
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_rate_of_wrong_answers_stays_within_delta(name: str) -> None:
    assert statistics.mean(stream(STREAMS[name], 1000, seed) for seed in range(10)) <= DELTA


def test_without_labels_it_would_not() -> None:
    assert stream(STREAMS["half"], 1000, 1, learn=False) > 10 * DELTA
