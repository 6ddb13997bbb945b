"""A job as the family of its model likes to be asked, where its owner has said how and the request has not. Pure.

Messages travel, never a rendered prompt: what is added here is a turn, a stop string or a figure like any other.
"""

from collections.abc import Iterable

import msgspec

from meshnode.terms import Job, Prompt, Sampling, Turn
from meshnode.terms.job import STOP_MAX

FIGURES = ("temperature", "top_p", "top_k", "min_p")
_DEFAULT = Sampling()


def fitted(job: Job, family: str, prompts: Iterable[Prompt]) -> Job:
    """The job for a model of this family; the same where nothing was said of it."""
    prompt = next((one for one in prompts if one.family.lower() == family.lower()), None)
    if prompt is None or not job.turns:
        return job
    turns = job.turns if job.is_text else _with_system(job.turns, prompt.system)
    return msgspec.structs.replace(job, turns=turns, sampling=_sampled(job.sampling, prompt))


def _with_system(turns: tuple[Turn, ...], system: str) -> tuple[Turn, ...]:
    told = any(turn.role in ("system", "developer") for turn in turns)
    return turns if told or not system else (Turn(role="system", content=system), *turns)


def _sampled(sampling: Sampling, prompt: Prompt) -> Sampling:
    """Figures that still have their defaults, replaced; the family's stop strings after the request's own."""
    unsaid = [name for name in FIGURES if getattr(sampling, name) == getattr(_DEFAULT, name)]
    figures = {name: getattr(prompt, name) for name in unsaid}
    stop = tuple(dict.fromkeys((*sampling.stop, *prompt.stop)))[:STOP_MAX]
    return msgspec.structs.replace(sampling, stop=stop, **figures)
