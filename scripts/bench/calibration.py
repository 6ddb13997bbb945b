"""The semantic prior's calibration: the question pairs as features, the fit, and its cross-validation.

The weights of a fold, and the least probability at which it answers, come from the other folds alone. That least
probability is above what any trap among them reached: of n traps that are drawn alike, the next one is above all of
them with a probability of at most 1 / (n + 1).
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshnode.cache.difference import Difference, difference
from meshnode.cache.guard import objection
from meshnode.cache.prior import FEATURES, Prior, features, logistic
from meshnode.cache.spelling import Vocabulary
from meshnode.cache.words import parse

FOLDS = 5
SEED = 1
SWEEPS = 200
TIGHTNESS = 1.0  # of the weights around what is assumed of them
ASSUMED = (
    -0.5
)  # for each kind of difference, where the pairs do not tell: that it makes one answer less likely
FLOOR = 0.9  # below this nothing is answered, whatever the traps reach
WEIGHT_MAX = 0.0  # no difference makes one answer likelier
DIGITS = 2

READ_BY_AUTHOR = {
    "near_repeat": 80,
    "paraphrase": 60,
    "negation": 20,
    "entity_swap": 20,
    "number_date": 20,
    "scope": 20,
}
"""How many pairs of each category, from the first on, were read while the rules were written."""


@dataclass(frozen=True)
class Pair:
    """A pair of questions: whether one answer does for both, what the guard says, and what they differ in."""

    a: str
    b: str
    category: str
    same: bool
    cosine: float
    passes: bool
    found: Difference
    unread: bool


def pairs_from(rows: Sequence[dict[str, object]], vocabulary: Vocabulary) -> list[Pair]:
    """The pairs as the cache sees them."""
    seen: Counter[str] = Counter()
    pairs = []
    for row in rows:
        a, b, category = str(row["a"]), str(row["b"]), str(row["category"])
        seen[category] += 1
        one, other = parse(b), parse(a)
        found = difference(one, other, vocabulary)
        passes = objection(one, other, found) is None
        unread = seen[category] > READ_BY_AUTHOR[category]
        pairs.append(
            Pair(a, b, category, bool(row["same_answer"]), float(str(row["cosine"])), passes, found, unread)
        )
    return pairs


def fit(pairs: Sequence[Pair]) -> Prior:
    """The prior that these pairs calibrate: penalised likelihood, no weight above WEIGHT_MAX."""
    passing = [pair for pair in pairs if pair.passes]
    rows, sames = [features(pair.found) for pair in passing], [pair.same for pair in passing]
    weights = [0.0] * len(FEATURES)
    for _ in range(SWEEPS):
        for at in range(len(weights)):
            weights[at] = _better(weights, at, rows, sames)
    rounded = tuple(round(weight, DIGITS) for weight in weights)
    prior = Prior(rounded, FLOOR)
    worst = max((prior.probability(pair.found) for pair in passing if not pair.same), default=0.0)
    return Prior(rounded, max(FLOOR, math.ceil(worst * 1000 + 1e-9) / 1000))


def _better(weights: list[float], at: int, rows: list[tuple[float, ...]], sames: list[bool]) -> float:
    """One step of Newton's method for one weight."""
    chances = [logistic(sum(map(float.__mul__, weights, row))) for row in rows]
    pull = 0.0 if at == 0 else TIGHTNESS
    slope = sum((chance - same) * row[at] for chance, same, row in zip(chances, sames, rows, strict=True))
    slope += pull * (weights[at] - ASSUMED)
    bend = sum(chance * (1 - chance) * row[at] ** 2 for chance, row in zip(chances, rows, strict=True)) + pull
    step = weights[at] - max(-1.0, min(1.0, slope / max(bend, 1e-9)))
    return step if at == 0 else min(step, WEIGHT_MAX)


def cross_validated(pairs: Sequence[Pair]) -> list[bool]:
    """For each pair whether it is answered, by a prior that was fitted without its fold."""
    fold = _folds(pairs)
    answered = [False] * len(pairs)
    for number in range(FOLDS):
        prior = fit([pair for pair, of in zip(pairs, fold, strict=True) if of != number])
        for at, pair in enumerate(pairs):
            if fold[at] == number:
                answered[at] = answers(prior, pair)
    return answered


def answers(prior: Prior, pair: Pair) -> bool:
    """Whether guard and prior would answer one question of a pair with the other's answer."""
    return pair.passes and prior.probability(pair.found) >= prior.least


def _folds(pairs: Sequence[Pair]) -> list[int]:
    """A fold for each pair, each category spread evenly, by lot."""
    rng, fold = random.Random(SEED), [0] * len(pairs)
    for category in sorted({pair.category for pair in pairs}):
        members = [at for at, pair in enumerate(pairs) if pair.category == category]
        rng.shuffle(members)
        for place, at in enumerate(members):
            fold[at] = place % FOLDS
    return fold


def shares(
    pairs: Sequence[Pair], answered: Sequence[bool], keep: Callable[[Pair], bool] = lambda _pair: True
) -> tuple[float, float]:
    """Percent answered of the pairs that should be, and of the traps."""
    told = [(pair.same, yes) for pair, yes in zip(pairs, answered, strict=True) if keep(pair)]
    right, wrong = [yes for same, yes in told if same], [yes for same, yes in told if not same]
    return 100 * sum(right) / len(right), 100 * sum(wrong) / len(wrong)
