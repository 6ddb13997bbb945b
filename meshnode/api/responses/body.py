"""The body of a response's request, from JSON to a Job. What is not supported is refused by name.

It knows OpenAI's fields and the words of a Job; it neither runs anything nor answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.api.options import convert, one_of, read_body, wished
from meshnode.api.responses.items import Input, turns_of
from meshnode.api.sampling import Count, SamplingBody, sampling_of
from meshnode.api.tools import (
    ChosenFunction,
    ChosenName,
    FunctionBody,
    ResponseFormat,
    SchemaBody,
    callable_tools,
    choice_of,
    output_of,
)
from meshnode.errors import BadRequest
from meshnode.terms import Job, Output, Tool, Wish
from meshnode.terms.job import TOOLS_MAX, TOP_LOGPROBS_MAX

METADATA_MAX = 16
LOGPROBS, REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"
INCLUDES = (LOGPROBS, REASONING)

Label = Annotated[str, Meta(max_length=512)]
MetadataKey = Annotated[str, Meta(max_length=64)]
Metadata = Annotated[dict[MetadataKey, Label], Meta(max_length=METADATA_MAX)]


class AnyTool(msgspec.Struct, frozen=True):
    """One entry of `tools`; what else it must have depends on its type."""

    type: str
    name: Any = None
    description: Any = None
    parameters: Any = None
    strict: Any = None


class StrictFunction(FunctionBody, frozen=True):
    """An entry that is a function; calls keep to its schema whether `strict` says so or not."""

    strict: bool | None = None


class NamedTool(msgspec.Struct, frozen=True):
    """A tool among those that are allowed."""

    type: str
    name: str | None = None


class ChosenTool(msgspec.Struct, frozen=True, omit_defaults=True):
    """`tool_choice` where it is no word: one function, or those that are allowed."""

    type: str
    name: str | None = None
    mode: str | None = None
    tools: Annotated[list[NamedTool], Meta(max_length=TOOLS_MAX)] | None = None


class TextFormat(msgspec.Struct, frozen=True):
    """`text.format`: text, json_object, or json_schema with a name and a schema."""

    type: str
    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """What the text must look like."""

    format: TextFormat | None = None


class ResponseBody(SamplingBody, frozen=True, kw_only=True):
    """The body of POST /v1/responses: what is honoured, what is only told again, and what is refused."""

    input: Input
    instructions: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_output_tokens: Count | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    tools: Annotated[list[AnyTool], Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: str | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None

    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    max_tool_calls: Count | None = None
    store: bool | None = None

    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    truncation: str | None = None
    moderation: Any = None

    @property
    def format(self) -> TextFormat | None:
        """What the text must look like, if that was said."""
        return self.text.format if self.text else None

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities were asked for."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    @property
    def length_param(self) -> str:
        """The field that says how long the answer may be."""
        return "max_output_tokens"


def read_response_body(body: bytes, headers: Iterable[tuple[str, str]] = ()) -> ResponseBody:
    """Decode and check a request. Raises BadRequest whose `param` names the field at fault."""
    asked = read_body(body, headers, ResponseBody)
    _check_unsupported(asked)
    for index, wanted in enumerate(asked.include or ()):
        if wanted not in INCLUDES:
            raise BadRequest(
                f"{wanted!r} cannot be included.", hint=one_of(INCLUDES), param=f"include[{index}]"
            )
    if asked.stream_options is not None and not asked.stream:
        raise BadRequest("stream_options is only allowed with stream: true.", param="stream_options")
    return asked


def response_job(asked: ResponseBody, job_id: str, tenant_tag: bytes = b"") -> Job:
    """The Job that the walk takes. Raises BadRequest for what no Job can say."""
    tools, choice = _chosen(asked.tool_choice, tools_of(asked))
    output, schema = _output(asked.format)
    job = Job(
        id=job_id,
        wish=Wish(),
        turns=turns_of(asked.input, asked.instructions),
        sampling=sampling_of(
            asked,
            max_tokens=asked.max_output_tokens,
            logprobs=asked.wants_logprobs,
            top_logprobs=asked.top_logprobs,
        ),
        tenant_tag=tenant_tag,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        output=output,
        schema=schema,
    )
    return wished(job, asked, "input")


def tools_of(asked: ResponseBody) -> tuple[Tool, ...]:
    """The functions that were sent, in their order. Raises BadRequest for what is none."""
    functions = []
    for index, tool in enumerate(asked.tools or ()):
        where = f"tools[{index}]"
        if tool.type != "function":
            raise BadRequest("Only functions can be tools.", param=f"{where}.type")
        functions.append((where, convert(msgspec.structs.asdict(tool), StrictFunction, where)))
    return callable_tools(functions)


def _chosen(choice: str | ChosenTool | None, tools: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], str]:
    """The tools that the model is told of, and the choice among them as a Job words it."""
    if isinstance(choice, ChosenTool) and choice.type == "allowed_tools":
        allowed = _allowed(choice, tools)
        return allowed, choice_of(choice.mode or "auto", allowed)
    if isinstance(choice, ChosenTool):
        named = ChosenName(choice.name) if choice.name is not None else None
        return tools, choice_of(ChosenFunction(choice.type, named), tools)
    return tools, choice_of(choice, tools)


def _allowed(choice: ChosenTool, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    if not choice.tools:
        raise BadRequest("The tools that are allowed are missing.", param="tool_choice.tools")
    known = {tool.name for tool in tools}
    names = set()
    for index, named in enumerate(choice.tools):
        if named.type != "function" or named.name not in known:
            raise BadRequest(f"There is no tool {named.name!r}.", param=f"tool_choice.tools[{index}]")
        names.add(named.name)
    return tuple(tool for tool in tools if tool.name in names)


def _output(wanted: TextFormat | None) -> tuple[Output, str]:
    if wanted is None:
        return output_of(None)
    schema = None
    if wanted.type == Output.JSON_SCHEMA:
        if wanted.name is None:
            raise BadRequest("A schema needs a name.", param="text.format.name")
        if wanted.schema is None:
            raise BadRequest("The schema is missing.", param="text.format.schema")
        schema = SchemaBody(wanted.name, wanted.schema)
    return output_of(ResponseFormat(wanted.type, schema), "text.format", "")


def _check_unsupported(asked: ResponseBody) -> None:
    """Refuse what would otherwise be silently ignored."""
    for name in ("previous_response_id", "conversation"):
        if getattr(asked, name) is not None:
            raise BadRequest(f"{name}: nothing is stored here.", hint="Send the whole input.", param=name)
    if asked.background:
        raise BadRequest("An answer cannot be fetched later.", hint="Send stream: true.", param="background")
    if asked.prompt is not None:
        raise BadRequest("No prompts are kept here.", hint="Send instructions.", param="prompt")
    if asked.truncation not in (None, "disabled"):
        raise BadRequest("Input is never cut.", hint="Send what fits.", param="truncation")
    if asked.moderation is not None:
        raise BadRequest("moderation is not supported.", param="moderation")
