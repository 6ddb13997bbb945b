"""How a family of models writes tool calls: the marker they begin with, their grammar, reading them back.

Pure: text and grammars, no model.
"""

import hashlib
import json
import re
from enum import StrEnum
from typing import Any, NamedTuple

from meshnode.engine.worker import schema as schemas
from meshnode.engine.worker.grammar import Grammar, Shape, quote
from meshnode.errors import BadRequest
from meshnode.terms import TOOL_CHOICE_FUNCTION, TOOL_CHOICE_NONE, TOOL_CHOICE_REQUIRED, Job, Tool, ToolCall

CALLS_MAX = 16  # in one answer
ID_CHARS = 24
PARAMETERS_PARAM, CHOICE_PARAM = "tools", "tool_choice"
NAMES = ("name", "function")  # where models put a function's name,
ARGUMENTS = ("arguments", "parameters", "args")  # and where its arguments
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


class Style(StrEnum):
    """The form in which a model was trained to write a call."""

    HERMES = "hermes"  # <tool_call>{"name": …, "arguments": {…}}</tool_call>, one after another
    MISTRAL = "mistral"  # [TOOL_CALLS][{"name": …, "arguments": {…}}, …] and nothing after it
    LLAMA = "llama"  # {"name": …, "parameters": {…}} and nothing else


class Form(NamedTuple):
    """`opening` begins a call; `closing` ends it, or is empty when calls run to the answer's end."""

    opening: str
    closing: str
    arguments: str = "arguments"


FORMS = {
    Style.HERMES: Form("<tool_call>", "</tool_call>"),
    Style.MISTRAL: Form("[TOOL_CALLS]", ""),
    Style.LLAMA: Form('{"name"', "", arguments="parameters"),
}


def style_of(template: str) -> Style:
    """The style that a chat template shows its models, and the one we ask for where it shows none."""
    if "[TOOL_CALLS]" in template:
        return Style.MISTRAL
    if "<tool_call>" not in template and ("python_tag" in template or '"parameters"' in template):
        return Style.LLAMA
    return Style.HERMES


def callable_tools(job: Job) -> tuple[Tool, ...]:
    """The tools that this answer may call. Raises BadRequest for a choice that is none of them."""
    choice = job.tool_choice
    if choice == TOOL_CHOICE_NONE:
        return ()
    if choice.startswith(TOOL_CHOICE_FUNCTION):
        name = choice.removeprefix(TOOL_CHOICE_FUNCTION)
        if found := tuple(tool for tool in job.tools if tool.name == name):
            return found
        raise BadRequest(f"tool_choice names {name}, which is not among the tools", param=CHOICE_PARAM)
    if choice == TOOL_CHOICE_REQUIRED and not job.tools:
        raise BadRequest("tool_choice is required, but there are no tools", param=CHOICE_PARAM)
    return job.tools


def must_call(job: Job) -> bool:
    """Whether the answer has to be a call."""
    return job.tool_choice == TOOL_CHOICE_REQUIRED or job.tool_choice.startswith(TOOL_CHOICE_FUNCTION)


def parameters_of(tool: Tool) -> schemas.Schema:
    """The schema of a tool's arguments. Raises BadRequest."""
    if not tool.parameters:
        return {"type": "object", "additionalProperties": False}
    found = schemas.read(tool.parameters, PARAMETERS_PARAM)
    return {"type": "object", **found}


def grammar_of(job: Job, style: Style, grammar: Grammar) -> str:
    """An expression for one or more calls, all that comes after FORMS[style].opening. Raises BadRequest."""
    form = FORMS[style]
    call = _any_call([_call(tool, style, grammar) for tool in callable_tools(job)], grammar)
    more = CALLS_MAX - 1 if job.parallel_tool_calls else 0
    if style is Style.MISTRAL:
        return f'"[" sp {call} ("," sp {call}){{0,{more}}} "]"'
    if style is Style.LLAMA:
        return call
    nl = '"\\n"?'
    one = f"{nl} {call} {nl} {quote(form.closing)}"
    return f"{one} ({nl} {quote(form.opening)} {one}){{0,{more}}}" if more else one


def _any_call(shapes: list[Shape], grammar: Grammar) -> str:
    return grammar.rule(" | ".join(shape.rule for shape in shapes), 1).rule


def _call(tool: Tool, style: Style, grammar: Grammar) -> Shape:
    form = FORMS[style]
    arguments = grammar.add(parameters_of(tool))
    opening = '"{" "\\"name\\""' if style is not Style.LLAMA else ""
    name, key = quote(json.dumps(tool.name)), quote(json.dumps(form.arguments))
    text = f'{opening} ":" sp {name} "," sp {key} ":" sp {arguments.rule} "}}"'
    return grammar.rule(text, len(tool.name) + 30 + arguments.shortest)


def read_calls(text: str, job_id: str, first: int) -> tuple[ToolCall, ...]:
    """The calls that a call's text, without its markers, holds; none when it is malformed.

    Ids follow from the job's and a call's number, so that a resumed answer gives the same.
    """
    values = _values(text.strip())
    pairs = [_named(value) for value in values]
    if not pairs or None in pairs:
        return ()
    return tuple(
        ToolCall(call_id(job_id, first + place), pair[0], pair[1])
        for place, pair in enumerate(pairs)
        if pair is not None
    )


def call_id(job_id: str, number: int) -> str:
    """Unique to a call of a request."""
    return "call_" + hashlib.sha256(f"{job_id}/{number}".encode()).hexdigest()[:ID_CHARS]


def _values(text: str) -> list[Any]:
    """JSON values one after another, or in one array; what Mistral's later models write as name[ARGS]{…}."""
    if marked := re.fullmatch(r"([a-zA-Z0-9_.-]{1,64})(?:\[ARGS\])?(\{.*\})", text, re.DOTALL):
        text = f'{{"name": {json.dumps(marked[1])}, "arguments": {marked[2]}}}'
    found: list[Any] = []
    decoder = json.JSONDecoder()
    try:
        while text:
            value, end = decoder.raw_decode(text)
            found += value if isinstance(value, list) else [value]
            text = text[end:].lstrip(" \n\t;,")
    except (ValueError, RecursionError):
        return []
    return found


def _named(value: Any) -> tuple[str, str] | None:
    """A call's name and its arguments as JSON text."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = next((value[key] for key in NAMES if isinstance(value.get(key), str)), "")
    arguments: Any = next((value[key] for key in ARGUMENTS if key in value), {})
    if isinstance(arguments, str):
        return (name, arguments) if NAME.fullmatch(name) and arguments[:1] == "{" else None
    if not NAME.fullmatch(name) or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
