"""The guard: what no likeness outweighs. Two questions that differ in one of these are never one question.

It comes before the prior, which only weighs what is left. Pure.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from meshnode.cache import lexicon
from meshnode.cache.difference import Difference
from meshnode.cache.words import Question, Word

LEFT_OVER_MAX = 4  # small words of both questions together that may lack a counterpart


class Objection(StrEnum):
    """Why one question cannot stand for another; the first that holds, in this order, is named."""

    ILLEGIBLE = "too long, of several lines, or empty"
    LITERAL = "quoted text or symbols differ"
    NUMBERS = "numbers differ"
    CALENDAR = "days or times differ"
    NEGATION = "one is negated"
    NAMES = "names differ"
    ANTONYMS = "an opposite stands in place of a word"
    FRAME = "another way of asking"
    ORDER = "the same words stand in another order"
    CONTENT = "a word of one has no counterpart in the other"


def objection(one: Question, other: Question, found: Difference) -> Objection | None:
    """The first objection to answering one question with the other's answer; None if there is none."""
    return next((name for name, holds in CHECKS.items() if holds(one, other, found)), None)


def _illegible(one: Question, other: Question, found: Difference) -> bool:
    return not (one.legible and other.legible)


def _literal(one: Question, other: Question, found: Difference) -> bool:
    return one.symbols != other.symbols or one.literal != other.literal


def _numbers(one: Question, other: Question, found: Difference) -> bool:
    return _figures(one.words) != _figures(other.words)


def _figures(words: Iterable[Word]) -> list[str]:
    """Every figure in order, one written out being the same as its digits."""
    texts = [lexicon.NUMBERS.get(word.text, word.text) for word in words]
    return [text for text in texts if any(letter.isdigit() for letter in text)]


def _calendar(one: Question, other: Question, found: Difference) -> bool:
    """A day that is written wrongly pairs off with the right one, so it is not left over."""
    return any(word.text in lexicon.CALENDAR for word in found.left_over)


def _negation(one: Question, other: Question, found: Difference) -> bool:
    if _negators(one.words) != _negators(other.words):
        return True
    return any(_negates(mine.text, word.text) for mine in found.left for word in found.right)


def _negators(words: Iterable[Word]) -> int:
    return sum(word.text in lexicon.NEGATORS for word in words)


def _negates(one: str, other: str) -> bool:
    """Whether one is the other with a prefix that turns it round."""
    short, long = sorted((one, other), key=len)
    return len(short) > 2 and any(
        long.replace("-", "") == prefix + short for prefix in lexicon.NEGATING_PREFIXES
    )


def _names(one: Question, other: Question, found: Difference) -> bool:
    return any(word.name for word in found.left_over)


def _antonyms(one: Question, other: Question, found: Difference) -> bool:
    return any((mine.text, word.text) in lexicon.ANTONYMS for mine in found.left for word in found.right)


def _frame(one: Question, other: Question, found: Difference) -> bool:
    """Whether, for one, asks how and the other whether."""
    return one.frame != other.frame


def _order(one: Question, other: Question, found: Difference) -> bool:
    return found.moved > 0


def _content(one: Question, other: Question, found: Difference) -> bool:
    """Of the words that are left over none may carry content, and of the small words there may be few."""
    if len(found.left_over) > LEFT_OVER_MAX:
        return True
    return any(word.text not in lexicon.EMPTY | lexicon.RELATIONS for word in found.left_over)


CHECKS: dict[Objection, Callable[[Question, Question, Difference], bool]] = {
    Objection.ILLEGIBLE: _illegible,
    Objection.LITERAL: _literal,
    Objection.NUMBERS: _numbers,
    Objection.CALENDAR: _calendar,
    Objection.NEGATION: _negation,
    Objection.NAMES: _names,
    Objection.ANTONYMS: _antonyms,
    Objection.FRAME: _frame,
    Objection.ORDER: _order,
    Objection.CONTENT: _content,
}
