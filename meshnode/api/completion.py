"""The body of a chat completion, from JSON to Jobs, one for each choice. What is not supported is refused by name.

It knows OpenAI's fields and the words of a Job; it neither runs anything nor answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import Meta

from meshnode.api.choices import ChoicesBody, choices_of
from meshnode.api.messages import Messages, turns_of
from meshnode.api.options import read_body, wished
from meshnode.api.sampling import Count, sampling_of
from meshnode.api.tools import ResponseFormat, ToolBodies, ToolChoice, choice_of, output_of, tools_of
from meshnode.errors import BadRequest
from meshnode.terms import Job, Wish
from meshnode.terms.job import TOP_LOGPROBS_MAX


class Completion(ChoicesBody, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions: first what is honoured, then what is refused."""

    messages: Messages
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    tools: ToolBodies | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    functions: list[Any] | None = None
    function_call: Any = None
    audio: Any = None
    modalities: list[str] | None = None

    @property
    def length_param(self) -> str:
        """The field that says how long the answer may be."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"


def read_completion(body: bytes, headers: Iterable[tuple[str, str]] = ()) -> Completion:
    """Decode and check a request. Raises BadRequest whose `param` names the field at fault."""
    completion = read_body(body, headers, Completion)
    _check_unsupported(completion)
    _check_together(completion)
    return completion


def jobs_of(completion: Completion, job_id: str, tenant_tag: bytes = b"") -> tuple[Job, ...]:
    """The Jobs that the walk takes, one for each choice. Raises BadRequest for what no Job can say."""
    turns = turns_of(completion.messages)
    tools = tools_of(completion.tools)
    output, schema = output_of(completion.response_format)
    job = Job(
        id=job_id,
        wish=Wish(),
        turns=turns,
        sampling=sampling_of(
            completion,
            max_tokens=completion.max_completion_tokens or completion.max_tokens,
            logprobs=completion.logprobs,
            top_logprobs=completion.top_logprobs,
        ),
        tenant_tag=tenant_tag,
        tools=tools,
        tool_choice=choice_of(completion.tool_choice, tools),
        parallel_tool_calls=completion.parallel_tool_calls is not False,
        output=output,
        schema=schema,
    )
    return choices_of(wished(job, completion, "messages"), completion.n)


def _check_unsupported(completion: Completion) -> None:
    """Refuse what would otherwise be silently ignored."""
    if completion.functions:
        raise BadRequest("functions has been replaced.", hint="Send tools.", param="functions")
    if completion.function_call not in (None, "none", "auto"):
        raise BadRequest("function_call has been replaced.", hint="Send tool_choice.", param="function_call")
    if completion.audio is not None:
        raise BadRequest("audio is not supported.", param="audio")
    if completion.modalities not in (None, [], ["text"]):
        raise BadRequest("Only text can be asked for.", param="modalities")


def _check_together(completion: Completion) -> None:
    """Fields that make sense only with, or not beside, others."""
    completion.check_stream()
    if completion.top_logprobs and not completion.logprobs:
        raise BadRequest("top_logprobs is only allowed with logprobs: true.", param="top_logprobs")
    limits = (completion.max_tokens, completion.max_completion_tokens)
    if None not in limits and limits[0] != limits[1]:
        raise BadRequest("max_tokens and max_completion_tokens contradict each other.", param="max_tokens")
