"""Slips, countries and endings: what is taken for another word, and what never is."""

import pytest

from meshnode.cache.spelling import NoVocabulary, is_inflected, is_regional, is_slip
from tests.cache.small_cache import Words


@pytest.mark.parametrize("written", ["chnage", "chang", "cahnge", "chanhe", "changge"])
def test_a_slip_of_a_common_word_that_is_no_word_is_one(written: str) -> None:
    assert is_slip("change", written, Words())
    assert is_slip(written, "change", Words())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cream", "dream"),  # both are words
        ("austria", "austral"),  # the word is too rare to be meant
        ("brixtom", "brightom"),  # neither is a word
        ("cat", "cta"),  # too short
        ("change", "xhange"),  # another first letter
        ("change", "chwxge"),  # too many
        ("order", "order2"),
    ],
)
def test_nothing_else_is_a_slip(one: str, other: str) -> None:
    assert not is_slip(one, other, Words())


def test_without_a_vocabulary_nothing_is_a_slip() -> None:
    assert not is_slip("change", "chnage", NoVocabulary())


def test_two_slips_are_forgiven_in_a_long_word_alone() -> None:
    assert is_slip("prescription", "perscriptoin", Words())
    assert not is_slip("order", "rdoer", Words())


@pytest.mark.parametrize(
    ("one", "other"), [("centre", "center"), ("colour", "color"), ("organise", "organize"), ("tyre", "tire")]
)
def test_two_countries_spell_one_word(one: str, other: str) -> None:
    assert is_regional(one, other)
    assert is_regional(other, one)
    assert not is_regional(one, other + "x")


def test_regular_endings_make_forms_of_a_word() -> None:
    assert all(is_inflected("stop", form) for form in ("stops", "stopped", "stopping"))
    assert is_inflected("city", "cities")
    assert not is_inflected("stop", "stopper")
    assert not is_inflected("in", "ins")
