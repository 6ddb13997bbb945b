"""Answers to a question that means the same: the search in one namespace, and whether two answers say the same.

The guard comes first, then the prior decides; the labels of the entry and of the tenant can only make it stricter. An
embedder is no judge here: where the node has one, what it holds unlike is refused as well.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import msgspec

from meshnode.cache import lexicon
from meshnode.cache.bound import LABELS_MAX, Label, Tally, chance_right, explores
from meshnode.cache.difference import Kind, difference
from meshnode.cache.exact import Kept, kept_of
from meshnode.cache.guard import objection
from meshnode.cache.key import fits
from meshnode.cache.prior import SHIPPED, Prior
from meshnode.cache.spelling import Vocabulary
from meshnode.cache.words import parse
from meshnode.seams import Rng
from meshnode.state.answers import AnswerRow
from meshnode.terms import Job

SEARCHED_MAX = 256  # the newest answers of a namespace that a question is compared with
WORDS_APART_MAX = 8  # how much longer one of two questions may be, courtesies and all
TENANTS_MAX = 1024  # whose labels are counted
COSINE_LEAST = 0.7  # what an embedder must find two questions alike
SAME_WORDS_LEAST = 0.5  # of the content words of two long answers that say the same
SHORT_ANSWER_WORDS = 8

REWORDING = (Kind.REGIONAL, Kind.INFLECTED, Kind.SYNONYM)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Label, ...]).decode


@dataclass(frozen=True, slots=True)
class Match:
    """A kept answer to a question that means the same, as far as guard and prior can tell."""

    row: AnswerRow
    kept: Kept
    prior: float
    reworded: bool

    @property
    def labels(self) -> tuple[Label, ...]:
        """What was learnt of it."""
        try:
            return _decode(self.row.labels) if self.row.labels else ()
        except msgspec.MsgspecError:
            return ()


class Likeness(NamedTuple):
    """How likely two questions want one answer, and whether one uses words that the other does not, slips aside."""

    probability: float
    reworded: bool = False


UNLIKE = Likeness(0.0)


def likeness(asked: str, kept: str, vocabulary: Vocabulary, prior: Prior = SHIPPED) -> Likeness:
    """How like two questions are; UNLIKE where the guard objects, or the prior is not sure enough."""
    if asked == kept:
        return Likeness(1.0)
    one, other = parse(asked), parse(kept)
    if abs(len(one.words) - len(other.words)) > WORDS_APART_MAX:
        return UNLIKE
    found = difference(one, other, vocabulary)
    if objection(one, other, found) is not None:
        return UNLIKE
    reworded = bool(found.left_over) or any(found.kinds[kind] for kind in REWORDING)
    likely = prior.probability(found)
    return Likeness(likely, reworded) if likely >= prior.least else UNLIKE


def best_match(job: Job, question: str, rows: Sequence[AnswerRow], vocabulary: Vocabulary) -> Match | None:
    """The likeliest of a namespace's answers, from weights that the request asks for; None if there is none."""
    likely = [(likeness(question, row.question, vocabulary), row) for row in rows[:SEARCHED_MAX]]
    for like, row in sorted(likely, key=lambda one: -one[0].probability):
        if like == UNLIKE:
            break
        kept = kept_of(row)
        if kept is not None and fits(job, kept.card):
            return Match(row, kept, like.probability, like.reworded)
    return None


class Tallies:
    """The labels of each tenant, counted. Those of a tenant long unheard of are given up."""

    def __init__(self) -> None:
        self._by_tenant: OrderedDict[bytes, Tally] = OrderedDict()

    def of(self, tenant: bytes) -> Tally:
        """A tenant's count."""
        return self._by_tenant.get(tenant, Tally())

    def note(self, tenant: bytes, right: bool) -> None:
        """One more label."""
        self._by_tenant[tenant] = self.of(tenant).with_label(right)
        self._by_tenant.move_to_end(tenant)
        while len(self._by_tenant) > TENANTS_MAX:
            self._by_tenant.popitem(last=False)


def must_explore(match: Match, tally: Tally, rng: Rng) -> bool:
    """Whether to ask the model all the same, to learn whether the kept answer is right."""
    chance = chance_right(match.prior, match.prior, match.labels, tally)
    return explores(chance, tally, rng)


def labels_with(match: Match, right: bool) -> bytes:
    """The labels of an entry with one more, as the store keeps them."""
    return _encode((*match.labels, Label(match.prior, right))[-LABELS_MAX:])


def are_alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether an embedder, whose vectors these are, does not hold two questions unlike."""
    if len(one) != len(other):
        return False
    norm = sqrt(sum(value * value for value in one) * sum(value * value for value in other))
    return norm > 0 and sum(a * b for a, b in zip(one, other, strict=True)) / norm >= COSINE_LEAST


def say_the_same(one: str, other: str) -> bool:
    """Whether two answers would do for each other. It would rather say no: that only makes the cache stricter.

    Short ones must have the same words; of longer ones the first figures and negations, and half of the words.
    """
    mine, theirs = _plain_words(one), _plain_words(other)
    if min(len(mine), len(theirs)) <= SHORT_ANSWER_WORDS:
        return mine == theirs
    if _stance(mine) != _stance(theirs):
        return False
    ours, others = _content(mine), _content(theirs)
    return len(ours & others) >= SAME_WORDS_LEAST * len(ours | others)


def _plain_words(text: str) -> list[str]:
    words = "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split()
    return [word for word in words if word not in lexicon.EMPTY]


def _stance(words: list[str]) -> tuple[str, ...]:
    """What an answer commits itself to at its beginning: yes or no, negations, and figures."""
    begin = words[: 2 * SHORT_ANSWER_WORDS]
    return tuple(word for word in begin if word in {"yes", "no", "not"} or any(map(str.isdigit, word)))


def _content(words: list[str]) -> set[str]:
    return set(words) - lexicon.RELATIONS
