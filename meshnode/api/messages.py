"""The messages of a chat, from OpenAI's shapes to turns. What cannot be turned into text is refused by its place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.api.options import one_of
from meshnode.errors import BadRequest
from meshnode.terms import ToolCall, Turn
from meshnode.terms.job import TOOLS_MAX, ToolName

MESSAGES_MAX = 4096
CALL_ID_CHARACTERS_MAX = 64
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}

CallId = Annotated[str, Meta(min_length=1, max_length=CALL_ID_CHARACTERS_MAX)]


class Part(msgspec.Struct, frozen=True):
    """One part of a message's content."""

    type: str
    text: str | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """What was called: `arguments` is JSON text, whatever the model wrote."""

    name: ToolName
    arguments: str


class Called(msgspec.Struct, frozen=True):
    """One call that the assistant made earlier."""

    id: CallId
    function: CalledFunction
    type: str = "function"


class Message(msgspec.Struct, frozen=True):
    """One message as OpenAI writes it."""

    role: str
    content: str | list[Part] | None = None
    name: Annotated[str, Meta(max_length=64)] | None = None
    tool_calls: Annotated[list[Called], Meta(max_length=TOOLS_MAX)] | None = None
    tool_call_id: CallId | None = None
    function_call: Any = None
    audio: Any = None


Messages = Annotated[list[Message], Meta(min_length=1, max_length=MESSAGES_MAX)]


def turns_of(messages: list[Message]) -> tuple[Turn, ...]:
    """The conversation. Raises BadRequest for what is no text."""
    called: dict[str, str] = {}
    turns = []
    for index, message in enumerate(messages):
        turns.append(_turn(message, f"messages[{index}]", called))
        called.update((call.id, call.function.name) for call in message.tool_calls or ())
    return tuple(turns)


def _turn(message: Message, where: str, called: dict[str, str]) -> Turn:
    """One message; `called` names the function behind each call so far."""
    role = ROLES.get(message.role)
    if role is None:
        raise BadRequest(f"There is no role {message.role!r}.", hint=one_of(ROLES), param=f"{where}.role")
    _check_what_comes_along(message, where)
    if message.content is None and not message.tool_calls:
        raise BadRequest("A message needs content.", param=f"{where}.content")
    answered = message.tool_call_id or ""
    return Turn(
        role=role,
        content=text_of(message.content or "", f"{where}.content"),
        name=message.name or called.get(answered, ""),
        tool_calls=tuple(
            ToolCall(call.id, call.function.name, call.function.arguments)
            for call in message.tool_calls or ()
        ),
        tool_call_id=answered,
    )


def _check_what_comes_along(message: Message, where: str) -> None:
    if message.function_call:
        raise BadRequest(
            "function_call has been replaced.", hint="Send tool_calls.", param=f"{where}.function_call"
        )
    if message.audio:
        raise BadRequest("audio is not supported.", param=f"{where}.audio")
    if message.tool_calls and message.role != "assistant":
        raise BadRequest("Only the assistant makes calls.", param=f"{where}.tool_calls")
    for at, call in enumerate(message.tool_calls or ()):
        if call.type != "function":
            raise BadRequest("Only functions can be called.", param=f"{where}.tool_calls[{at}].type")
    if (message.role == "tool") != (message.tool_call_id is not None):
        raise BadRequest(
            "A tool's message, and no other, names the call that it answers.", param=f"{where}.tool_call_id"
        )


def text_of(content: str | list[Part], where: str, kinds: Collection[str] = ("text",)) -> str:
    """The text of a message's parts. Raises BadRequest for a part of another kind."""
    if isinstance(content, str):
        return content
    return "".join(_part_text(part, f"{where}[{index}]", kinds) for index, part in enumerate(content))


def _part_text(part: Part, where: str, kinds: Collection[str]) -> str:
    if part.type not in kinds:
        raise BadRequest(f"Parts of type {part.type!r} are not supported, only text.", param=f"{where}.type")
    if part.text is None:
        raise BadRequest("A text part needs text.", param=f"{where}.text")
    return part.text
