"""An answer as items, and the events that tell of them while it is written. Pure: emitted pieces in, shapes out.

Whole or as a stream, an answer takes the same way: what is sent whole is the response that a stream ends with.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from meshnode.api.errors import error_body
from meshnode.api.likelihoods import TokenShape, token_shapes
from meshnode.api.responses.body import ResponseBody, tools_of
from meshnode.api.responses.shapes import (
    ArgumentsDelta,
    ArgumentsDone,
    CallItem,
    ErrorEvent,
    Event,
    Failure,
    FormatShape,
    Incomplete,
    InputDetails,
    Item,
    ItemEvent,
    ItemStatus,
    MessageItem,
    OutputDetails,
    PartEvent,
    Response,
    ResponseEvent,
    TextDelta,
    TextDone,
    TextPart,
    TextShape,
    ToolShape,
    UsageShape,
)
from meshnode.errors import BadRequest, Busy, MeshError
from meshnode.terms import End, FinishReason, Job, Output, Piece, ToolCall, Usage
from meshnode.terms.job import TOOL_CHOICE_AUTO

BLANK_MAX = 64  # characters of white space that wait for a text to stand before


class Written:
    """One response while it is written. Every method gives the events of what it changes, in their order."""

    def __init__(self, asked: ResponseBody, job: Job, created: int, model: str) -> None:
        self.response = _opened(asked, job, created, model)
        self.characters = 0
        self._job_id = job.id
        self._sequence = -1
        self._items: list[Item] = []
        self._message: _Message | None = None
        self._unsaid: list[TokenShape] = []  # of tokens whose text has not come yet
        self._blank = ""  # what a message would begin with: between calls it is none

    def begin(self) -> list[Event]:
        """That it exists, and is being written."""
        return [self._told("response.created"), self._told("response.in_progress")]

    def take(self, piece: Piece) -> list[Event]:
        """Text goes into the message that is open; a call ends it, and is an item of its own."""
        self._unsaid += token_shapes(piece.logprobs)
        text = self._blank + piece.text
        held = self._message is None and len(text) <= BLANK_MAX and not text.strip()
        self._blank = text if held else ""
        events = self._say(text) if text and not held else []
        for call in piece.calls:
            events += [*self._close("completed"), *self._call(call)]
            self._unsaid, self._blank = [], ""  # of tokens that were the call's, and what stood before it
        return events

    def end(self, end: End, completed_at: int) -> list[Event]:
        """The clean end, perhaps for want of room; an answer without anything is an empty message."""
        cut = end.reason is FinishReason.LENGTH
        unsaid = bool(self._unsaid) if self._message else not self._items
        events = self._say(self._blank) if unsaid else []
        events += self._close("incomplete" if cut else "completed")
        self.response = msgspec.structs.replace(
            self.response,
            status="incomplete" if cut else "completed",
            completed_at=None if cut else completed_at,
            incomplete_details=Incomplete() if cut else None,
            output=tuple(self._items),
            usage=_usage(end.usage),
        )
        return [*events, self._told(f"response.{self.response.status}")]

    def fail(self, error: MeshError) -> list[Event]:
        """The end with an error: what it was, and the response that has failed."""
        facts = error_body(error)
        events: list[Event] = self.begin() if self._sequence < 0 else []
        if self._message is not None:
            self._items.append(self._message.item("incomplete"))
        self.response = msgspec.structs.replace(
            self.response,
            status="failed",
            output=tuple(self._items),
            error=Failure(_failure_code(error), facts.message),
        )
        told = ErrorEvent(
            type="error",
            sequence_number=self._next(),
            message=facts.message,
            param=facts.param,
            code=facts.code,
            error=facts,
        )
        return [*events, told, self._told("response.failed")]

    def _say(self, text: str) -> list[Event]:
        events = self._open() if self._message is None else []
        assert self._message is not None
        logprobs, self._unsaid = tuple(self._unsaid), []
        self._message.add(text, logprobs)
        self.characters += len(text)
        if text or logprobs:
            where = self._place(self._message.id)
            events.append(
                TextDelta(type="response.output_text.delta", **where, delta=text, logprobs=logprobs)
            )
        return events

    def _open(self) -> list[Event]:
        self._message = _Message(f"msg_{self._job_id}_{len(self._items)}")
        empty = MessageItem(id=self._message.id, status="in_progress", content=())
        added = self._item("response.output_item.added", empty)
        where = self._place(empty.id)
        return [added, PartEvent(type="response.content_part.added", **where, part=TextPart(text=""))]

    def _close(self, status: ItemStatus) -> list[Event]:
        """The end of the message that is open, if one is."""
        if self._message is None:
            return []
        item = self._message.item(status)
        (part,) = item.content
        texts: dict[str, Any] = {"text": part.text, "logprobs": part.logprobs}
        events: list[Event] = [
            TextDone(type="response.output_text.done", **self._place(item.id), **texts),
            PartEvent(type="response.content_part.done", **self._place(item.id), part=part),
            self._item("response.output_item.done", item),
        ]
        self._items.append(item)
        self._message = None
        return events

    def _call(self, call: ToolCall) -> list[Event]:
        """A call, all of whose arguments come at once."""
        self.characters += len(call.arguments)
        item = CallItem(
            id=f"fc_{self._job_id}_{len(self._items)}",
            status="completed",
            call_id=call.id,
            name=call.name,
            arguments=call.arguments,
        )
        empty = msgspec.structs.replace(item, status="in_progress", arguments="")
        kind = "response.function_call_arguments"
        whole: dict[str, Any] = {"name": call.name, "arguments": call.arguments}
        events: list[Event] = [
            self._item("response.output_item.added", empty),
            ArgumentsDelta(type=f"{kind}.delta", **self._place(item.id), delta=call.arguments),
            ArgumentsDone(type=f"{kind}.done", **self._place(item.id), **whole),
            self._item("response.output_item.done", item),
        ]
        self._items.append(item)
        return events

    def _told(self, kind: str) -> Event:
        return ResponseEvent(type=kind, sequence_number=self._next(), response=self.response)

    def _item(self, kind: str, item: Item) -> Event:
        return ItemEvent(type=kind, sequence_number=self._next(), output_index=len(self._items), item=item)

    def _place(self, item_id: str) -> dict[str, Any]:
        """Where the next event is, in the stream and in the output."""
        return {
            "sequence_number": self._next(),
            "item_id": item_id,
            "output_index": len(self._items),
        }

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence


class _Message:
    """The message that is being said."""

    def __init__(self, item_id: str) -> None:
        self.id = item_id
        self._texts: list[str] = []
        self._logprobs: list[TokenShape] = []

    def add(self, text: str, logprobs: tuple[TokenShape, ...]) -> None:
        self._texts.append(text)
        self._logprobs += logprobs

    def item(self, status: ItemStatus) -> MessageItem:
        part = TextPart(text="".join(self._texts), logprobs=tuple(self._logprobs))
        return MessageItem(id=self.id, status=status, content=(part,))


def _opened(asked: ResponseBody, job: Job, created: int, model: str) -> Response:
    """What was asked for as it was understood, with nothing of an answer."""
    sampling = job.sampling
    return Response(
        id=f"resp_{job.id}",
        created_at=created,
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        max_tool_calls=asked.max_tool_calls,
        model=model,
        parallel_tool_calls=job.parallel_tool_calls,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        prompt_cache_key=asked.prompt_cache_key,
        safety_identifier=asked.safety_identifier,
        temperature=sampling.temperature,
        text=TextShape(_format(asked, job)),
        tool_choice=asked.tool_choice or TOOL_CHOICE_AUTO,
        tools=_tools(asked),
        top_logprobs=sampling.top_logprobs,
        top_p=sampling.top_p,
        user=UNSET if asked.user is None else asked.user,
        metadata=asked.metadata or {},
    )


def _format(asked: ResponseBody, job: Job) -> FormatShape:
    wanted = asked.format
    if wanted is None or wanted.name is None or job.output is not Output.JSON_SCHEMA:
        return FormatShape(type=job.output)
    return FormatShape(
        type=job.output,
        name=wanted.name,
        description=wanted.description or "",
        schema=_json(job.schema),
        strict=wanted.strict is not False,
    )


def _tools(asked: ResponseBody) -> tuple[ToolShape, ...]:
    return tuple(
        ToolShape(
            name=tool.name,
            description=sent.description,
            parameters=None if sent.parameters is None else _json(tool.parameters),
            strict=sent.strict is not False,
        )
        for sent, tool in zip(asked.tools or (), tools_of(asked), strict=True)
    )


def _json(schema: str) -> msgspec.Raw:
    """A schema in a Job's words, where none is empty."""
    return msgspec.Raw(schema.encode() or b"{}")


def _usage(usage: Usage) -> UsageShape:
    read, wrote = usage.prompt_tokens, usage.completion_tokens
    return UsageShape(read, InputDetails(usage.cached_tokens), wrote, OutputDetails(), read + wrote)


def _failure_code(error: MeshError) -> str:
    """OpenAI's word for it, of the few that it has."""
    if isinstance(error, BadRequest):
        return "invalid_prompt"
    return "rate_limit_exceeded" if isinstance(error, Busy) else "server_error"
