"""The online bound: labels, gathered by asking a model all the same, keep the rate of wrong answers below delta.

It follows vCache (L. G. Schroeder et al., "vCache: Verified Semantic Prompt Caching", arXiv 2502.03771): where the
estimated chance P that a kept answer is right is below 1 - delta, the model is asked with the probability
(1 - delta - P) / (1 - P), so that what is answered wrongly stays within delta. Unlike there a shipped prior stands
first, and P is never above it: labels only tighten. Each entry has its own labels, and each tenant's count together,
for a prior may be wrong about a whole subject of which each entry is met only once. Pure; `rng` is an argument.
"""

from collections.abc import Sequence
from typing import NamedTuple

from meshnode.seams import Rng

DELTA = 0.02  # vCache's default
KEPT_OF_DELTA = 0.7  # the rest is for what is answered before there are labels
ENTRY_STRENGTH = 4.0  # labels that the prior counts for, at one entry
TENANT_STRENGTH = 5.0  # and for a tenant's entries together
FIRST_LABELS = 50.0  # until there are about so many, up to half of all chances to answer are spent on labels
LEAST_EXPLORED = 0.05  # of all chances, for ever: what was right may become wrong
LABELS_MAX = 64  # an entry's newest


class Label(NamedTuple):
    """Whether a kept answer was right for a question of this similarity."""

    similarity: float
    right: bool


class Tally(NamedTuple):
    """A tenant's labels, counted."""

    right: int = 0
    wrong: int = 0

    def with_label(self, right: bool) -> "Tally":
        """One more."""
        return Tally(self.right + right, self.wrong + (not right))


def chance_right(prior: float, similarity: float, labels: Sequence[Label], tally: Tally) -> float:
    """How likely an entry's answer is right for a question, never more than the prior says.

    A wrong label counts at any similarity; one that was right says nothing of questions less similar than its own.
    """
    right = sum(label.right and label.similarity <= similarity for label in labels)
    wrong = sum(not label.right for label in labels)
    entry = _mean(prior, ENTRY_STRENGTH, right, wrong)
    return min(prior, entry, _mean(prior, TENANT_STRENGTH, tally.right, tally.wrong))


def _mean(prior: float, strength: float, right: int, wrong: int) -> float:
    """The mean of a beta distribution that began as the prior."""
    return (strength * prior + right) / (strength + right + wrong)


def share_explored(chance: float, tally: Tally, delta: float = DELTA) -> float:
    """How often the model must be asked although there is an answer."""
    wanted = 1 - KEPT_OF_DELTA * delta
    needed = (wanted - chance) / (1 - chance) if chance < wanted else 0.0
    early = FIRST_LABELS / (2 * FIRST_LABELS + tally.right + tally.wrong)
    return max(LEAST_EXPLORED, early, needed)


def explores(chance: float, tally: Tally, rng: Rng, delta: float = DELTA) -> bool:
    """Whether to ask the model this time, and learn whether the answer would have been right."""
    return rng.random() < share_explored(chance, tally, delta)
