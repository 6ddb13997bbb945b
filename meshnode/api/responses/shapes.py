"""A response and the events of its stream, as OpenAI shapes them. Pure data."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from meshnode.api.errors import ErrorBody
from meshnode.api.likelihoods import TokenShape

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class TextPart(msgspec.Struct, frozen=True, kw_only=True):
    """The one part of a message."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[TokenShape, ...] = ()


class MessageItem(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: tuple[TextPart, ...]


class CallItem(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model calls: `arguments` is JSON text."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


Item = MessageItem | CallItem


class InputDetails(msgspec.Struct, frozen=True):
    """How much of the input was not computed again. Nobody is charged for what is kept: it counts as 0."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """Thinking is no part of an answer here, and is not told apart."""

    reasoning_tokens: int = 0


class UsageShape(msgspec.Struct, frozen=True):
    """Tokens, as OpenAI counts them."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ToolShape(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as it was understood. Its schema stays text: as deep as it may be, it is not walked through again."""

    type: Literal["function"] = "function"
    name: str
    description: str | None
    parameters: msgspec.Raw | None
    strict: bool


class FormatShape(msgspec.Struct, frozen=True, kw_only=True):
    """The format as it was understood; a schema has all of it."""

    type: str
    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    schema: msgspec.Raw | UnsetType = UNSET
    strict: bool | UnsetType = UNSET


class TextShape(msgspec.Struct, frozen=True):
    """`text`."""

    format: FormatShape


class Incomplete(msgspec.Struct, frozen=True):
    """Why an answer has no end of its own."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class Failure(msgspec.Struct, frozen=True):
    """Why a response failed: `code` is one of OpenAI's."""

    code: str
    message: str


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """The response as it stands: what was asked, and what has come of it."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status = "in_progress"
    background: Literal[False] = False
    error: Failure | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: tuple[Item, ...] = ()
    parallel_tool_calls: bool
    presence_penalty: float
    frequency_penalty: float
    previous_response_id: None = None
    prompt_cache_key: str | None
    reasoning: None = None
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: Literal[False] = False
    temperature: float
    text: TextShape
    tool_choice: Any
    tools: tuple[ToolShape, ...]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: UsageShape | None = None
    user: str | UnsetType = UNSET
    metadata: dict[str, str]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream; each kind has more fields."""

    type: str
    sequence_number: int


class ResponseEvent(Event, frozen=True, kw_only=True):
    """What has become of the whole response."""

    response: Response


class ItemEvent(Event, frozen=True, kw_only=True):
    """An item begins or is done."""

    output_index: int
    item: Item


class PlacedEvent(Event, frozen=True, kw_only=True):
    """Something inside an item."""

    item_id: str
    output_index: int


class PartEvent(PlacedEvent, frozen=True, kw_only=True):
    """A message's part begins or is done."""

    content_index: Literal[0] = 0
    part: TextPart


class TextDelta(PlacedEvent, frozen=True, kw_only=True):
    """More of the text."""

    content_index: Literal[0] = 0
    delta: str
    logprobs: tuple[TokenShape, ...] = ()


class TextDone(PlacedEvent, frozen=True, kw_only=True):
    """All of the text."""

    content_index: Literal[0] = 0
    text: str
    logprobs: tuple[TokenShape, ...] = ()


class ArgumentsDelta(PlacedEvent, frozen=True, kw_only=True):
    """More of a call's arguments."""

    delta: str


class ArgumentsDone(PlacedEvent, frozen=True, kw_only=True):
    """All of a call's arguments."""

    name: str
    arguments: str


class ErrorEvent(Event, frozen=True, kw_only=True):
    """What went wrong. OpenAI's description has its facts in the event, the open one under `error`: here are both."""

    message: str
    param: str | None
    code: str | None
    error: ErrorBody
