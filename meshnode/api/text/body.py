"""The body of a text completion, from JSON to Jobs. What is not supported is refused by name.

It knows OpenAI's fields and the words of a Job; it neither runs anything nor answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.api.choices import ChoicesBody, choices_of
from meshnode.api.options import read_body, wished
from meshnode.api.sampling import Count, sampling_of
from meshnode.errors import BadRequest
from meshnode.terms import Job, Sampling, Turn, Wish
from meshnode.terms.job import TEXT_ROLE

PROMPTS_MAX = 16
JOBS_MAX = 16  # choices of all prompts together
LIKELIEST_MAX = 5
TOKENS_UNNAMED = 16  # OpenAI's, for a request that names no length


class TextBody(ChoicesBody, frozen=True, kw_only=True):
    """The body of POST /v1/completions: first what is honoured, then what is refused."""

    prompt: str | list[Any]
    max_tokens: Count | None = None
    logprobs: Annotated[int, Meta(ge=0, le=LIKELIEST_MAX)] | None = None
    echo: bool | None = None

    best_of: int | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts to go on with. Raises BadRequest for what is none."""
        return _prompts(self.prompt)

    @property
    def choices(self) -> int:
        """How many choices each prompt has."""
        return self.n or 1


def read_text_body(body: bytes, headers: Iterable[tuple[str, str]] = ()) -> TextBody:
    """Decode and check a request. Raises BadRequest whose `param` names the field at fault."""
    asked = read_body(body, headers, TextBody)
    asked.check_stream()
    if asked.suffix:
        raise BadRequest("Text cannot be written into the middle.", param="suffix")
    if asked.best_of not in (None, 1, asked.choices):
        raise BadRequest("All choices are given out: best_of can only be 1, or n.", param="best_of")
    if asked.echo and asked.logprobs is not None:
        raise BadRequest("How likely a prompt is cannot be told: send echo or logprobs.", param="echo")
    if len(asked.prompts) * asked.choices > JOBS_MAX:
        raise BadRequest(f"At most {JOBS_MAX} choices are made, of all prompts together.", param="n")
    return asked


def text_jobs(asked: TextBody, job_id: str, tenant_tag: bytes = b"") -> tuple[Job, ...]:
    """The Jobs that the walk takes, one for each choice of the first prompt, then of the next.

    Raises BadRequest for what no Job can say.
    """
    sampling = _sampling(asked)
    jobs: list[Job] = []
    for prompt in asked.prompts:
        turn = Turn(role=TEXT_ROLE, content=prompt)
        job = Job(id=job_id, wish=Wish(), turns=(turn,), sampling=sampling, tenant_tag=tenant_tag)
        jobs += choices_of(wished(job, asked, "prompt"), asked.n)
    return tuple(
        msgspec.structs.replace(job, id=f"{job_id}-{at}" if at else job_id) for at, job in enumerate(jobs)
    )


def _sampling(asked: TextBody) -> Sampling:
    """How tokens are drawn; a length that was not named may be shorter."""
    sampling = sampling_of(
        asked,
        max_tokens=asked.max_tokens or TOKENS_UNNAMED,
        logprobs=asked.logprobs is not None,
        top_logprobs=asked.logprobs,
    )
    return msgspec.structs.replace(sampling, shorten=asked.max_tokens is None)


def _prompts(given: str | list[Any]) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else given
    if any(isinstance(text, int | list) for text in texts):
        raise BadRequest("Arrays of tokens are not supported.", hint="Send the text.", param="prompt")
    if not 0 < len(texts) <= PROMPTS_MAX:
        raise BadRequest(f"Send between 1 and {PROMPTS_MAX} prompts.", param="prompt")
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest("Every prompt must be a text.", param="prompt")
    return tuple(texts)
