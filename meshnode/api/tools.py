"""Tools, the choice among them, and the shape that an answer must have, from OpenAI's words to a Job's.

Only shapes are checked here; what a JSON Schema means is for the worker, which builds a grammar from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.api.options import one_of
from meshnode.errors import BadRequest
from meshnode.terms import Output, Tool
from meshnode.terms.job import (
    SCHEMA_MAX_CHARS,
    TOOL_CHOICE_AUTO,
    TOOL_CHOICE_FUNCTION,
    TOOL_CHOICE_NONE,
    TOOL_CHOICE_REQUIRED,
    TOOLS_MAX,
    ToolName,
)

SCHEMA_DEPTH_MAX = 128  # of objects and lists within each other
CHOICES = (TOOL_CHOICE_AUTO, TOOL_CHOICE_NONE, TOOL_CHOICE_REQUIRED)


class FunctionBody(msgspec.Struct, frozen=True):
    """A function that may be called; calls keep to its schema whether `strict` says so or not."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(msgspec.Struct, frozen=True):
    """One entry of `tools`."""

    type: str
    function: FunctionBody | None = None


class ChosenName(msgspec.Struct, frozen=True):
    """The function that must be called."""

    name: str


class ChosenFunction(msgspec.Struct, frozen=True):
    """`tool_choice` where it names a function."""

    type: str
    function: ChosenName | None = None


class SchemaBody(msgspec.Struct, frozen=True):
    """`response_format.json_schema`."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    schema: dict[str, Any]


class ResponseFormat(msgspec.Struct, frozen=True):
    """`response_format`: text, json_object, or json_schema with a schema."""

    type: str
    json_schema: SchemaBody | None = None


ToolBodies = Annotated[list[ToolBody], Meta(max_length=TOOLS_MAX)]
ToolChoice = str | ChosenFunction


def tools_of(bodies: list[ToolBody] | None) -> tuple[Tool, ...]:
    """The tools of a chat. Raises BadRequest for what is no function, or comes twice."""
    functions = []
    for index, body in enumerate(bodies or ()):
        if body.type != "function" or body.function is None:
            raise BadRequest("Only functions can be tools.", param=f"tools[{index}].type")
        functions.append((f"tools[{index}].function", body.function))
    return callable_tools(functions)


def callable_tools(functions: Iterable[tuple[str, FunctionBody]]) -> tuple[Tool, ...]:
    """The tools, each given with its place in the body. Raises BadRequest for a name that comes twice."""
    tools: dict[str, Tool] = {}
    for where, function in functions:
        if function.name in tools:
            raise BadRequest("Two tools have the same name.", param=f"{where}.name")
        parameters = _schema_text(function.parameters, f"{where}.parameters")
        tools[function.name] = Tool(function.name, function.description or "", parameters)
    return tuple(tools.values())


def choice_of(choice: ToolChoice | None, tools: tuple[Tool, ...]) -> str:
    """The choice as a Job words it. Raises BadRequest for one that cannot be kept."""
    if choice is None:
        return TOOL_CHOICE_AUTO
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise BadRequest(
                f"There is no choice {choice!r}.", hint=one_of((*CHOICES, "a function")), param="tool_choice"
            )
        if choice == TOOL_CHOICE_REQUIRED and not tools:
            raise BadRequest("There are no tools to choose from.", param="tool_choice")
        return choice
    if choice.type != "function" or choice.function is None:
        raise BadRequest("Only a function can be chosen.", param="tool_choice")
    if choice.function.name not in {tool.name for tool in tools}:
        raise BadRequest(f"There is no tool {choice.function.name!r}.", param="tool_choice")
    return TOOL_CHOICE_FUNCTION + choice.function.name


def output_of(
    wanted: ResponseFormat | None, where: str = "response_format", under: str = ".json_schema"
) -> tuple[Output, str]:
    """The shape of the answer, and its schema as text. Raises BadRequest that names the part at fault.

    `where` is the field's place in the body, and `under` that of name and schema below it.
    """
    if wanted is None:
        return Output.TEXT, ""
    if wanted.type not in set(Output):
        raise BadRequest(f"There is no format {wanted.type!r}.", hint=one_of(Output), param=f"{where}.type")
    if wanted.type != Output.JSON_SCHEMA:
        return Output(wanted.type), ""
    if wanted.json_schema is None:
        raise BadRequest("The schema is missing.", param=f"{where}{under}")
    return Output.JSON_SCHEMA, _schema_text(wanted.json_schema.schema, f"{where}{under}.schema")


def _schema_text(schema: dict[str, Any] | None, param: str) -> str:
    if not schema:
        return ""
    try:
        text = msgspec.json.encode(schema).decode()
    except RecursionError:
        raise _too_deep(param) from None
    if len(text) > SCHEMA_MAX_CHARS:
        raise BadRequest(f"The schema is longer than {SCHEMA_MAX_CHARS} characters.", param=param)
    _check_depth(schema, param)
    return text


def _check_depth(schema: dict[str, Any], param: str) -> None:
    """Refuse what those who read it later could not walk through: the response repeats it inside other objects."""
    level: list[Any] = [schema]
    for _ in range(SCHEMA_DEPTH_MAX):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise _too_deep(param)


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _too_deep(param: str) -> BadRequest:
    return BadRequest(f"The schema is nested more than {SCHEMA_DEPTH_MAX} levels deep.", param=param)
