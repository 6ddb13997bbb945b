"""An answer that was written elsewhere, drawn again place by place: would these weights have written it?

Nothing is generated. The tokens are known, so they are read like a prompt, and at each place the run's own sampler
chain draws with the run's own seed. It knows no batches: whoever reads gives it the rows.
"""

import numpy as np
from llama_cpp import llama_cpp as c

from meshnode.engine.worker.calls import Style
from meshnode.engine.worker.held import Candidates, apply, candidates
from meshnode.engine.worker.llama import Model
from meshnode.engine.worker.sampling import SEED_MAX, Sampler
from meshnode.terms import Recheck, Redrawn

FINE = 4096  # how many equal parts the lot is told apart by


class Redraw:
    """The draws of one answer from its place `start` on; `free` it after the last."""

    def __init__(self, check: Recheck, model: Model, style: Style) -> None:
        sampling = check.job.sampling
        self._by_lot = sampling.temperature > 0
        before = check.ids[: check.start]
        self._sampler = Sampler(check.job, model, style=style)
        self._lots = _Lots((sampling.seed or 0) % SEED_MAX, len(before) if self._by_lot else 0)
        self._sampler.replay(before)

    def at(self, row: int, written: int) -> Redrawn:
        """The draw from the logits of a batch row, in the place of a token that was written there."""
        left, drawn = self._sampler.redraw(row, written)
        token = int(left["id"][drawn])
        if self._by_lot:
            lot = self._lots.next()
            miss = 0.0 if token == written else _beside(left, written, lot)
        else:
            miss = _less_likely(left, written, drawn)
        logprobs = self._sampler.logprobs(row)
        return Redrawn(token, float(logprobs[token]), float(logprobs[written]), miss)

    def free(self) -> None:
        """Give the chain back; it must not be used after."""
        self._sampler.free()
        self._lots.free()


class _Lots:
    """The numbers, 0 to 1, that a seeded chain draws by, for those who want to know them."""

    def __init__(self, seed: int, skipped: int) -> None:
        self._draws = c.llama_sampler_init_dist(seed)
        self._equal = candidates(np.arange(FINE), np.zeros(FINE))
        for _ in range(skipped):
            apply(self._draws, candidates([0, 1], [0.0, 0.0]))

    def next(self) -> float:
        return (apply(self._draws, self._equal.copy()) + 0.5) / FINE

    def free(self) -> None:
        c.llama_sampler_free(self._draws)


def _beside(left: Candidates, written: int, lot: float) -> float:
    """How much probability lies between where the lot fell and what was written, which is last if ruled out."""
    logits = left["logit"].astype(np.float64)
    weights = np.exp(logits - logits.max())
    ends = np.cumsum(weights / weights.sum())
    (found,) = np.nonzero(left["id"] == written)
    if not len(found):
        return float(1.0 - lot)
    place = int(found[0])
    begin, end = (float(ends[place - 1]) if place else 0.0), float(ends[place])
    return max(0.0, begin - lot, lot - end)


def _less_likely(left: Candidates, written: int, drawn: int) -> float:
    """The part by which what was written is less likely than the likeliest."""
    (found,) = np.nonzero(left["id"] == written)
    if not len(found):
        return 1.0
    return max(0.0, float(-np.expm1(float(left["logit"][found[0]]) - float(left["logit"][drawn]))))
