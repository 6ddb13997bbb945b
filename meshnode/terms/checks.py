"""What a spot check is made of: an answer that came from elsewhere, and what the same weights would have written."""

import msgspec

from meshnode.terms.job import Job, Output


class Redrawn(msgspec.Struct, frozen=True):
    """One place of an answer: `token` is what these weights draw there, after all that was written before it.

    `logprob` is that token's log-probability and `written` that of the one that was written there, both as the model
    gives them, before any sampling. `miss` says how far the draw was from being the written one, 0 (it was) to 1:
    for a draw by lot, by how much probability the lot fell beside it; for the likeliest, by which part it is less
    likely than that. A miss close to 0 is a near tie, which rounding decides.
    """

    token: int
    logprob: float
    written: float
    miss: float


class Recheck(msgspec.Struct, frozen=True):
    """An answer to check: the job as it was sent, and the ids that came back, those that it resumed with included.

    The places from `start` on are drawn again, up to the end of `ids`; before them is only read. `text` is what came
    with the ids, or more; where the ids do not spell its beginning, every place is missed. Empty says nothing.
    """

    job: Job
    ids: tuple[int, ...]
    start: int
    text: str = ""


def can_be_redrawn(job: Job) -> bool:
    """Whether the same weights must write the same answer: free text, and nothing left to chance but by a seed."""
    sampling = job.sampling
    free = job.output is Output.TEXT and not job.tools and not job.inputs
    return free and (sampling.temperature <= 0 or sampling.seed is not None)
