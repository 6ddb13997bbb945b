"""The prior: how likely two questions that passed the guard want one answer, before anything was learnt online.

A logistic regression over counts of what the two differ in, calibrated on the question pairs of the PyPI package
`fow-cache` (CC BY 4.0) by `scripts/bench/cache.py --fit`, which also cross-validates it. Pure.
"""

import math
from dataclasses import dataclass

from meshnode.cache import lexicon
from meshnode.cache.difference import Difference, Kind

FEATURES = ("bias", "slips", "forms", "synonyms", "empty", "relations")


def features(found: Difference) -> tuple[float, ...]:
    """What the regression sees, in the order of FEATURES: which kinds of difference there are, not how many."""
    kinds = found.kinds
    texts = {word.text for word in found.left_over}
    there = (
        True,
        kinds[Kind.SLIP] > 0,
        kinds[Kind.INFLECTED] + kinds[Kind.REGIONAL] > 0,
        kinds[Kind.SYNONYM] > 0,
        bool(texts & lexicon.EMPTY),
        bool(texts - lexicon.EMPTY),
    )
    return tuple(map(float, there))


@dataclass(frozen=True, slots=True)
class Prior:
    """A calibrated prior. An answer may be given again at `least`, which no trap of the calibration has reached."""

    weights: tuple[float, ...]
    least: float

    def probability(self, found: Difference) -> float:
        """How likely both questions want one answer, 0 to 1."""
        return logistic(sum(weight * one for weight, one in zip(self.weights, features(found), strict=True)))

    @property
    def probability_of_same(self) -> float:
        """The same for two questions that differ in nothing that it sees."""
        return logistic(self.weights[0])


def logistic(value: float) -> float:
    """The logistic function, for any number."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


SHIPPED = Prior(weights=(4.46, -0.26, -0.34, -0.4, -0.07, -1.72), least=0.94)
