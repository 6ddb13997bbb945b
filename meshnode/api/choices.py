"""Several choices of one prompt: the fields that ask for them, and a job for each. It runs nothing."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.api.sampling import SEED_MAX, SamplingBody
from meshnode.errors import BadRequest
from meshnode.terms import CacheMode, Job

CHOICES_MAX = 8


class StreamOptions(msgspec.Struct, frozen=True):
    """`include_usage` asks for a last chunk that counts tokens."""

    include_usage: bool | None = None


class ChoicesBody(SamplingBody, frozen=True, kw_only=True):
    """The part of a body that says how many choices there are to be, and whether they are streamed."""

    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_stream(self) -> None:
        """Raise BadRequest for options of a stream where there is none."""
        if self.stream_options is not None and not self.stream:
            raise BadRequest("stream_options is only allowed with stream: true.", param="stream_options")


def choices_of(job: Job, count: int | None) -> tuple[Job, ...]:
    """A job for each choice; None for one."""
    return tuple(_choice(job, index) for index in range(count or 1))


def _choice(job: Job, index: int) -> Job:
    """The job for one choice: a prompt like the others', and a seed of its own if there is one."""
    if index == 0:
        return job
    seed = job.sampling.seed
    shifted = None if seed is None else seed + index if seed + index <= SEED_MAX else seed - index
    sampling = msgspec.structs.replace(job.sampling, seed=shifted)
    wish = job.wish
    if shifted is None and sampling.temperature > 0:  # drawn anew: not the first choice once more
        wish = msgspec.structs.replace(wish, cache=CacheMode.OFF)
    return msgspec.structs.replace(job, id=f"{job.id}-{index}", sampling=sampling, wish=wish)
