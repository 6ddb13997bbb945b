"""What a node must be able to do for a job, read off the job itself. Pure."""

import msgspec

from meshnode.terms import Feature, Job, Output
from meshnode.terms.job import TOOL_CHOICE_NONE


def with_needs(job: Job) -> Job:
    """The job, wishing for every feature that it uses besides those it names."""
    needed = {*job.wish.features, *needs_of(job)}
    return msgspec.structs.replace(
        job, wish=msgspec.structs.replace(job.wish, features=tuple(sorted(needed)))
    )


def needs_of(job: Job) -> tuple[Feature, ...]:
    """The features that a job uses; tools that must not be called take none."""
    used = {
        Feature.TOOLS: bool(job.tools) and job.tool_choice != TOOL_CHOICE_NONE,
        Feature.JSON_SCHEMA: job.output is not Output.TEXT,
        Feature.LOGPROBS: job.sampling.logprobs,
        Feature.EMBEDDINGS: bool(job.inputs),
        Feature.TOKEN_IDS: bool(job.resume),
        Feature.TEXT: job.is_text,
    }
    return tuple(feature for feature, wanted in used.items() if wanted)
