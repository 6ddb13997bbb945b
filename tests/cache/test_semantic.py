"""Like questions: the search, the labels, and whether two answers say the same."""

import pytest

from meshnode.cache.bound import LABELS_MAX, Label, Tally
from meshnode.cache.exact import kept_from, row_of
from meshnode.cache.key import Keys
from meshnode.cache.semantic import (
    TENANTS_MAX,
    UNLIKE,
    Match,
    Tallies,
    are_alike,
    best_match,
    labels_with,
    likeness,
    say_the_same,
)
from meshnode.state.answers import AnswerRow
from tests.cache.small_cache import Words, answer, asked, said

WORDS = Words()


def row(question: str, text: str = "x", **facts: object) -> AnswerRow:
    kept = kept_from(answer(**facts), said(text))
    assert kept is not None
    return row_of(Keys(), asked(question), kept)


ROWS = [row("How do I change my password?", "so"), row("How do I change my address?", "thus"), row("Why?")]


def test_a_like_question_finds_its_answer_and_no_other() -> None:
    match = best_match(asked(), "Hi, how do i chnage my password", ROWS, WORDS)
    assert match is not None
    assert match.kept.text == "so"
    assert 0.94 <= match.prior < 1
    assert best_match(asked(), "How do I change my name?", ROWS, WORDS) is None


def test_the_likest_is_taken() -> None:
    rows = [row("How do I chnage it?", "slip"), row("how do i change it", "same")]
    match = best_match(asked(), "How do I change it?", rows, WORDS)
    assert match is not None
    assert match.kept.text == "same"


def test_an_answer_by_other_weights_than_asked_for_is_none() -> None:
    assert best_match(asked(model="other:1b"), "how do i change my password", ROWS, WORDS) is None
    assert best_match(asked(min_tier=3), "how do i change my password", ROWS, WORDS) is None


def test_what_the_guard_or_the_prior_refuses_is_unlike() -> None:
    assert likeness("Who won in 2014?", "Who won in 2018?", WORDS) == UNLIKE
    assert likeness("Can I pay within it?", "Can I pay after it?", WORDS) == UNLIKE
    assert likeness("a " * 40 + "cat", "a cat", WORDS) == UNLIKE


def test_only_other_words_are_a_matter_for_an_embedder() -> None:
    assert not likeness("How do I change it?", "how do I chnage it", WORDS).reworded
    assert likeness("Is it a big cat?", "Is it a large cat?", WORDS).reworded


def test_labels_are_kept_with_the_entry_and_bounded() -> None:
    first = best_match(asked(), "how do i change my password", ROWS, WORDS)
    assert first is not None
    match = first
    for _ in range(LABELS_MAX + 5):
        match = Match(match.row._replace(labels=labels_with(match, False)), match.kept, match.prior, False)
    assert match.labels == (Label(first.prior, False),) * LABELS_MAX
    broken = Match(match.row._replace(labels=b"\xc1"), match.kept, match.prior, False)
    assert broken.labels == ()


def test_tenants_are_counted_apart_and_only_so_many() -> None:
    tallies = Tallies()
    tallies.note(b"a", True)
    tallies.note(b"a", False)
    assert (tallies.of(b"a"), tallies.of(b"b")) == (Tally(1, 1), Tally())
    for number in range(TENANTS_MAX):
        tallies.note(number.to_bytes(4), True)
    assert tallies.of(b"a") == Tally()


def test_vectors_are_alike_by_their_angle() -> None:
    assert are_alike((1.0, 0.0), (2.0, 0.1))
    assert not are_alike((1.0, 0.0), (0.5, 1.0))
    assert not are_alike((1.0, 0.0), (1.0, 0.0, 0.0))
    assert not are_alike((0.0, 0.0), (0.0, 0.0))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Paris.", "paris", True),
        ("Paris.", "Rome.", False),
        ("Yes, that works.", "No, that works.", False),
        (
            "The shop opens at 9 and closes late in the evening on every single weekday.",
            "The shop opens at 9 and it closes late in the evening on each weekday.",
            True,
        ),
        (
            "The shop opens at 9 and closes late in the evening on every single weekday.",
            "The shop opens at 7 and closes late in the evening on every single weekday.",
            False,
        ),
        (
            "Cats sleep through most afternoons because hunting costs them plenty energy otherwise.",
            "Trains leave platform seven whenever signals turn green near northern yards.",
            False,
        ),
    ],
)
def test_two_answers_say_the_same_or_would_rather_not(one: str, other: str, same: bool) -> None:
    assert say_the_same(one, other) is same
