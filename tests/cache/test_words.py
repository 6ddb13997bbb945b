"""Questions as words: what is folded away, and what is kept apart."""

import pytest

from meshnode.cache.words import CHARACTERS_MAX, parse


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I change my password?", "how do i change my password"),
        ("How do I change my password?", "HOW DO I CHANGE MY PASSWORD"),
        ("How do I change my password?", "  How do I   change my password ?!"),
        ("How do I change my password?", "How can I change my password?"),
        ("How do I change my password?", "Hi, how do I change my password please? Thanks!"),
        ("How do I change my password?", "Sorry to bother you, but how do I change my password?"),
        ("How do I change my password?", "Could you tell me how I can change my password?"),
        ("Where is the key?", "Can you tell me where the key is?"),
        ("What is a tensor?", "what's a tensor"),
        ("I can't see it", "I cannot see it"),
        ("Why doesn't it work?", "why doesnt it work"),
        ("When do you open on Mondays?", "On Mondays, when do you open?"),
    ],
)
def test_two_ways_of_writing_one_question_are_one(one: str, other: str) -> None:
    mine, theirs = parse(one), parse(other)
    assert (mine.frame, [word.text for word in mine.words]) == (
        theirs.frame,
        [word.text for word in theirs.words],
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Can I cancel it?", "How do I cancel it?"),
        ("What is the price?", "What was the price?"),
        ("Can you swim?", "Can I swim?"),
        ("Do not open it", "Open it"),
        ("Hello world", "world"),
    ],
)
def test_another_question_stays_another(one: str, other: str) -> None:
    mine, theirs = parse(one), parse(other)
    assert (mine.frame, [word.text for word in mine.words]) != (
        theirs.frame,
        [word.text for word in theirs.words],
    )


def test_a_document_and_lines_of_code_are_not_legible() -> None:
    assert not parse("word " * CHARACTERS_MAX).legible
    assert not parse("one\ntwo").legible
    assert not parse("?!").legible
    assert parse("One question?").legible


def test_names_and_acronyms_are_told_by_their_capitals() -> None:
    words = {word.text: word for word in parse("Does Anna from the US know?").words}
    assert words["anna"].name
    assert words["us"].acronym
    assert not words["does"].name
