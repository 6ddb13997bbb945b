"""When to send a request to a second node beside one that says nothing yet: seldom, late, and only where it may.

"The Tail at Scale" (Dean and Barroso, 2013) has the idea: wait for as long as nearly all of the like take, then ask
one more and take whoever speaks first. It is told what happened and when; it sends nothing.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Sequence

from meshnode.routing.retries import RetryBudget
from meshnode.terms import Candidate, Job, ModelCard, Privacy

SHARE = 0.05  # of requests
SAVED_MOST = 5.0  # hedges that quiet times save up
QUANTILE = 0.95
TIMES_LEAST = 20  # fewer tell nothing of the slowest twentieth
TIMES_KEPT = 256
KINDS_MAX = 64
AFTER_LEAST_S = 0.05
TOLD_MAX = 1024

Kind = tuple[bytes, int]
"""Requests that take about as long to begin: for the same weights, their prompts within a factor of four."""


def kind_of(job: Job, card: ModelCard) -> Kind:
    """What a request is compared with."""
    return card.digest, job.wish.prompt_tokens.bit_length() // 2


class Hedging:
    """What first tokens have taken, and how many hedges that allows; it draws on the budget of retries too."""

    def __init__(self, budget: RetryBudget, *, on: bool = False) -> None:
        self.on = on
        self._budget = budget
        self._saved = 0.0
        self._times: OrderedDict[Kind, deque[float]] = OrderedDict()
        self._told: OrderedDict[str, str] = OrderedDict()

    def asked(self) -> None:
        """A request came in."""
        self._saved = min(SAVED_MOST, self._saved + SHARE)

    def began(self, kind: Kind, took_s: float) -> None:
        """A first token came so long after its request was sent, or would have come no sooner."""
        times = self._times.pop(kind, None) or deque(maxlen=TIMES_KEPT)
        while len(self._times) >= KINDS_MAX:
            self._times.popitem(last=False)
        self._times[kind] = times
        times.append(took_s)

    def after_s(self, job: Job, card: ModelCard) -> float | None:
        """How long to wait for a first token; None while that is not known."""
        times = self._times.get(kind_of(job, card), ())
        if len(times) < TIMES_LEAST:
            return None
        return max(AFTER_LEAST_S, sorted(times)[math.ceil(QUANTILE * len(times)) - 1])

    def second(self, job: Job, first: Candidate, others: Sequence[Candidate]) -> Candidate | None:
        """Whom to send it to as well, the best of those left; None where that must not be."""
        if self.forbidden(job, first):
            return None
        return next((one for one in others if one.node != first.node and _is_free(one)), None)

    def forbidden(self, job: Job, first: Candidate) -> str:
        """Why no second node may get the request; empty if one may."""
        if not self.on:
            return "off"
        if job.wish.privacy is not Privacy.PUBLIC:
            return f"never for class {job.wish.privacy.value}"
        if job.inputs:
            return "never for embeddings"
        if not first.path:
            return "not beside this node itself"
        return "" if _is_free(first) else "never where somebody is paid"

    def take(self, now: float) -> bool:
        """Whether one more request may be hedged; it counts then."""
        if self._saved < 1 or not self._budget.may_retry(now):
            return False
        self._saved -= 1
        return True

    # --- For whoever asks why ---

    def tell(self, job: Job, what: str) -> None:
        """This became of a request's hedge."""
        self._told.pop(job.id, None)
        while len(self._told) >= TOLD_MAX:
            self._told.popitem(last=False)
        self._told[job.id] = what

    def account(self, job: Job, first: Candidate | None) -> str:
        """What became of it, or what would."""
        if job.id in self._told:
            return self._told[job.id]
        if first is None:
            return ""
        if why := self.forbidden(job, first):
            return why
        after_s = self.after_s(job, first.card)
        return "too few of the like yet" if after_s is None else f"after {after_s:.3f} s without a token"


def _is_free(candidate: Candidate) -> bool:
    return candidate.cloud is None and not candidate.price_usd
