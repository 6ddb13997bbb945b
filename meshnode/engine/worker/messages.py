"""A job's turns as chat templates expect them, and as those do that know no tools or no system's turn. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from meshnode.engine.worker.calls import callable_tools, must_call
from meshnode.terms import Job, Tool, ToolCall, Turn

Message = Mapping[str, Any]

TOOLS_TEXT = """You can call functions. Each is described here, one to a line, as JSON:
{tools}

To call one, answer with nothing but its name and arguments as JSON between these tags:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument": "its value"}}}}
</tool_call>{rule}"""
MUST_TEXT = "\nYou must call a function now."
MISTRAL_ID_CHARS = 9  # its templates refuse ids of another length


def messages(job: Job, *, text_arguments: bool = False, id_chars: int = 64) -> list[Message]:
    """For a template that knows tools. `text_arguments` leaves a call's arguments as JSON text."""
    return [_message(turn, text_arguments, id_chars) for turn in job.turns]


def tools(job: Job) -> list[Message]:
    """The tools that are shown to the model, in OpenAI's form."""
    return [{"type": "function", "function": _function(tool)} for tool in callable_tools(job)]


def plain_messages(job: Job, *, system: bool = True) -> list[Message]:
    """For a template that knows no tools: they become text. Without `system`, so do the system's turns."""
    shown = [(_plain_role(turn), _plain_text(turn)) for turn in job.turns]
    if callable_tools(job):
        shown = _with_system(shown, tools_text(job))
    if not system:
        shown = _folded(shown)
    return [{"role": role, "content": text} for role, text in _merged(shown)]


def tools_text(job: Job) -> str:
    """What tells a model that was taught no form of its own."""
    lines = "\n".join(json.dumps(_function(tool), ensure_ascii=False) for tool in callable_tools(job))
    return TOOLS_TEXT.format(tools=lines, rule=MUST_TEXT if must_call(job) else "")


def _function(tool: Tool) -> dict[str, Any]:
    parameters = json.loads(tool.parameters) if tool.parameters else {"type": "object", "properties": {}}
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _message(turn: Turn, text_arguments: bool, id_chars: int) -> Message:
    message: dict[str, Any] = {"role": _role(turn), "content": turn.content}
    if turn.name:
        message["name"] = turn.name
    if turn.tool_calls:
        message["tool_calls"] = [_call(call, text_arguments, id_chars) for call in turn.tool_calls]
    if turn.tool_call_id:
        message["tool_call_id"] = turn.tool_call_id[-id_chars:]
    return message


def _call(call: ToolCall, text_arguments: bool, id_chars: int) -> Message:
    arguments = call.arguments if text_arguments else _parsed(call.arguments)
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id[-id_chars:], "type": "function", "function": function}


def _parsed(arguments: str) -> Any:
    """A dictionary where it is one; models write what they like."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _role(turn: Turn) -> str:
    return "system" if turn.role == "developer" else turn.role


def _plain_role(turn: Turn) -> str:
    return "user" if turn.role == "tool" else _role(turn)


def _plain_text(turn: Turn) -> str:
    if turn.role == "tool":
        return f"<tool_response>\n{turn.content}\n</tool_response>"
    written = [
        "<tool_call>\n"
        + json.dumps({"name": call.name, "arguments": _parsed(call.arguments)}, ensure_ascii=False)
        + "\n</tool_call>"
        for call in turn.tool_calls
    ]
    return "\n".join([turn.content, *written] if turn.content else written) if written else turn.content


def _with_system(shown: Sequence[tuple[str, str]], text: str) -> list[tuple[str, str]]:
    if shown and shown[0][0] == "system":
        return [("system", f"{shown[0][1]}\n\n{text}"), *shown[1:]]
    return [("system", text), *shown]


def _folded(shown: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The system's words at the head of the user's, which `_merged` makes one turn of."""
    return [("user" if role == "system" else role, text) for role, text in shown]


def _merged(shown: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one role, tool results above all, as one turn; some templates insist on turns alternating."""
    merged: list[tuple[str, str]] = []
    for role, text in shown:
        if merged and merged[-1][0] == role:
            merged[-1] = (role, f"{merged[-1][1]}\n\n{text}")
        else:
            merged.append((role, text))
    return merged
