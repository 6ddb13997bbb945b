"""The input of a response, from OpenAI's items to turns. What cannot be turned into text is refused by its place."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.api.messages import MESSAGES_MAX, ROLES, CallId, Part, text_of
from meshnode.api.options import convert, one_of
from meshnode.errors import BadRequest
from meshnode.terms import ToolCall, Turn
from meshnode.terms.job import TOOLS_MAX, ToolName

MESSAGE, CALL, RESULT, REASONING, REFERENCE = (
    "message",
    "function_call",
    "function_call_output",
    "reasoning",
    "item_reference",
)
MESSAGE_ROLES = tuple(role for role in ROLES if role != "tool")
PARTS = ("input_text", "output_text")

# What an item must have depends on its type, which is looked at first: so an unknown one is refused as such.
Input = str | Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MESSAGES_MAX)]


class MessageItem(msgspec.Struct, frozen=True):
    """What somebody said."""

    role: str
    content: str | list[Part]


class CallItem(msgspec.Struct, frozen=True):
    """A call that the assistant made: `arguments` is JSON text, whatever the model wrote."""

    call_id: CallId
    name: ToolName
    arguments: str


class ResultItem(msgspec.Struct, frozen=True):
    """What came of a call."""

    call_id: CallId
    output: str | list[Part]


def turns_of(given: Input, instructions: str | None) -> tuple[Turn, ...]:
    """The conversation, which the instructions open. Raises BadRequest that names the item at fault."""
    conversation = _Conversation()
    if instructions:
        conversation.add(Turn(role="system", content=instructions))
    if isinstance(given, str):
        conversation.add(Turn(role="user", content=given))
    else:
        for index, item in enumerate(given):
            _take(conversation, item, f"input[{index}]")
    if all(turn.role == "system" for turn in conversation.turns):
        raise BadRequest("There is nothing to answer.", hint="Send a message.", param="input")
    return tuple(conversation.turns)


class _Conversation:
    """The turns so far; calls that follow each other, or what the assistant said, are one turn."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.called: dict[str, str] = {}  # the function behind each call

    def add(self, turn: Turn) -> None:
        self.turns.append(turn)

    def call(self, call: ToolCall, where: str) -> None:
        self.called[call.id] = call.name
        if not self.turns or self.turns[-1].role != "assistant":
            self.add(Turn(role="assistant", content=""))
        calls = (*self.turns[-1].tool_calls, call)
        if len(calls) > TOOLS_MAX:
            raise BadRequest(f"At most {TOOLS_MAX} calls can follow each other.", param=where)
        self.turns[-1] = msgspec.structs.replace(self.turns[-1], tool_calls=calls)


def _take(conversation: _Conversation, item: dict[str, Any], where: str) -> None:
    kind = item.get("type") or (MESSAGE if "role" in item else REFERENCE)
    if kind == MESSAGE:
        conversation.add(_message(convert(item, MessageItem, where), where))
    elif kind == CALL:
        call = convert(item, CallItem, where)
        conversation.call(ToolCall(call.call_id, call.name, call.arguments), where)
    elif kind == RESULT:
        conversation.add(_result(convert(item, ResultItem, where), where, conversation.called))
    elif kind == REFERENCE:
        raise BadRequest("Nothing is stored here.", hint="Send the item itself.", param=where)
    elif kind != REASONING:  # which is for the model that thought it, and no part of a prompt
        known = (MESSAGE, CALL, RESULT, REASONING)
        raise BadRequest("This type of item is not supported.", hint=one_of(known), param=f"{where}.type")


def _message(item: MessageItem, where: str) -> Turn:
    if item.role not in MESSAGE_ROLES:
        raise BadRequest(
            f"There is no role {item.role!r}.", hint=one_of(MESSAGE_ROLES), param=f"{where}.role"
        )
    return Turn(role=ROLES[item.role], content=text_of(item.content, f"{where}.content", PARTS))


def _result(item: ResultItem, where: str, called: dict[str, str]) -> Turn:
    return Turn(
        role="tool",
        content=text_of(item.output, f"{where}.output", PARTS),
        name=called.get(item.call_id, ""),
        tool_call_id=item.call_id,
    )
