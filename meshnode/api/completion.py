"""The body of a chat completion, from JSON to Jobs, one for each choice. What is not supported is refused by name.

It knows OpenAI's fields and the words of a Job; it neither runs anything nor answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.api.messages import Messages, turns_of
from meshnode.api.options import MeshOptions, ModelName, decode, given, mesh_options, wished
from meshnode.api.tools import ResponseFormat, ToolBodies, ToolChoice, choice_of, output_of, tools_of
from meshnode.errors import BadRequest, ContextExceeded
from meshnode.terms import Bias, CacheMode, Job, Sampling, Wish
from meshnode.terms.job import BIASES_MAX, TOP_LOGPROBS_MAX
from meshwire.limits import PROMPT_MAX

STOPS_MAX = 4
CHOICES_MAX = 8
TOKEN_DIGITS_MAX = 10
SEED_MAX = 2**63 - 1

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=SEED_MAX)]
BiasValue = Annotated[float, Meta(ge=-100, le=100)]


class StreamOptions(msgspec.Struct, frozen=True):
    """`include_usage` asks for a last chunk that counts tokens."""

    include_usage: bool | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions: first what is honoured, then what is refused."""

    model: ModelName
    messages: Messages
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: dict[str, BiasValue] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    tools: ToolBodies | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    mesh: MeshOptions | None = None

    functions: list[Any] | None = None
    function_call: Any = None
    audio: Any = None
    modalities: list[str] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a count of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def tenant(self) -> str:
        """Whose request it is, in the caller's own words."""
        return (self.mesh and self.mesh.tenant) or ""


def read_completion(body: bytes, headers: Iterable[tuple[str, str]] = ()) -> Completion:
    """Decode and check a request. Raises BadRequest whose `param` names the field at fault."""
    completion = decode(body, Completion)
    _check_unsupported(completion)
    _check_stops(completion.stop)
    _check_together(completion)
    return msgspec.structs.replace(completion, mesh=mesh_options(completion.mesh, headers))


def jobs_of(completion: Completion, job_id: str, tenant_tag: bytes = b"") -> tuple[Job, ...]:
    """The Jobs that the walk takes, one for each choice. Raises BadRequest for what no Job can say."""
    turns = turns_of(completion.messages)
    tools = tools_of(completion.tools)
    output, schema = output_of(completion.response_format)
    job = Job(
        id=job_id,
        wish=Wish(),
        turns=turns,
        sampling=_sampling(completion),
        tenant_tag=tenant_tag,
        tools=tools,
        tool_choice=choice_of(completion.tool_choice, tools),
        parallel_tool_calls=completion.parallel_tool_calls is not False,
        output=output,
        schema=schema,
    )
    job = wished(job, completion.model, _prompt_bytes(job), completion.mesh or MeshOptions())
    return tuple(_choice(job, index) for index in range(completion.n or 1))


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


def _prompt_bytes(job: Job) -> int:
    """How long everything is that becomes part of the prompt. Raises ContextExceeded."""
    texts = [turn.content for turn in job.turns]
    texts += [call.arguments for turn in job.turns for call in turn.tool_calls]
    texts += [text for tool in job.tools for text in (tool.description, tool.parameters)]
    prompt_bytes = sum(len(text.encode()) for text in texts)
    if prompt_bytes > PROMPT_MAX:
        raise ContextExceeded(f"The messages are longer than {PROMPT_MAX} bytes.", param="messages")
    return prompt_bytes


def _sampling(completion: Completion) -> Sampling:
    stops = completion.stop or ()
    return given(
        Sampling(stop=(stops,) if isinstance(stops, str) else tuple(stops)),
        temperature=completion.temperature,
        top_p=completion.top_p,
        top_k=completion.top_k,
        min_p=completion.min_p,
        seed=completion.seed,
        max_tokens=completion.max_completion_tokens or completion.max_tokens,
        presence_penalty=completion.presence_penalty,
        frequency_penalty=completion.frequency_penalty,
        repeat_penalty=completion.repeat_penalty,
        logit_bias=_biases(completion.logit_bias or {}),
        logprobs=completion.logprobs,
        top_logprobs=completion.top_logprobs,
    )


def _biases(given_biases: dict[str, float]) -> tuple[Bias, ...]:
    if len(given_biases) > BIASES_MAX:
        raise BadRequest(f"At most {BIASES_MAX} tokens can have a bias.", param="logit_bias")
    return tuple(Bias(_token_id(key), value) for key, value in given_biases.items())


def _token_id(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= TOKEN_DIGITS_MAX else 2**32
    if number >= 2**32:
        raise BadRequest(f"{text[:40]!r} is not the number of a token.", param="logit_bias")
    return number


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


def _check_stops(stop: str | list[str] | None) -> None:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > STOPS_MAX:
        raise BadRequest(f"At most {STOPS_MAX} stop strings are possible.", param="stop")
    if "" in stops:
        raise BadRequest("A stop string cannot be empty.", param="stop")


def _check_together(completion: Completion) -> None:
    """Fields that make sense only with, or not beside, others."""
    if completion.stream_options is not None and not completion.stream:
        raise BadRequest("stream_options is only allowed with stream: true.", param="stream_options")
    if completion.top_logprobs and not completion.logprobs:
        raise BadRequest("top_logprobs is only allowed with logprobs: true.", param="top_logprobs")
    limits = (completion.max_tokens, completion.max_completion_tokens)
    if None not in limits and limits[0] != limits[1]:
        raise BadRequest("max_tokens and max_completion_tokens contradict each other.", param="max_tokens")
