"""The place where a model file's template runs: jinja2's immutable sandbox, with every way to fill memory closed.

A template is hostile input (CVE-2024-34359). Python code in it is interrupted after a time, but one long call in
C is not, so those that can make much out of little are bounded by what goes into them. It knows no models.
"""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_indent, do_join
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

PRODUCT_MAX = 1 << 20  # of a `*` or `**`, of a width, of a joined or replaced text
TEXT_MAX_CHARS = 8 << 20  # of any text that a template works on; a prompt is smaller
SPECIFIER_DIGITS_MAX = 3  # in '%999d'
METHODS_REFUSED = frozenset({"format", "format_map", "translate", "expandtabs", "encode", "to_bytes"})
WIDE_METHODS = frozenset({"center", "ljust", "rjust", "zfill"})
FILTERS = frozenset(
    {"abs", "capitalize", "count", "default", "d", "dictsort", "e", "escape", "first", "float", "groupby"}
    | {
        "int",
        "items",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "reverse",
    }
    | {"round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "truncate"}
    | {"unique", "upper", "wordcount"}
)


class TemplateRefusalError(Exception):
    """The template itself says no, through `raise_exception`."""


class _Generation(Extension):
    """A block that marks, for training, what the assistant says; for us it is its content."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Concatenations(NodeTransformer):
    """`a ~ b` as a filter, which can be bounded, over a list."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "concatenated", [], [], None, None, lineno=node.lineno)


def _concatenate(parts: Iterable[Any]) -> str:
    texts = [str(part) for part in parts]
    if sum(map(len, texts)) > TEXT_MAX_CHARS:
        raise SecurityError("a text grows too long")
    return "".join(texts)


class Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, bounded: operators, methods, blocks and filters that could fill the memory in one step."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset({"*", "**", "%", "+"})  # type: ignore[misc]
    concat = staticmethod(_concatenate)  # of what a block or a macro makes

    def __init__(self, **names: object) -> None:
        extensions = ["jinja2.ext.loopcontrols", _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters = {name: self.filters[name] for name in sorted(FILTERS)}
        self.filters.update(
            join=_join, replace=_replace, indent=_indent, tojson=to_json, concatenated=_concatenate
        )
        self.globals.clear()
        self.globals.update(
            range=jinja2.sandbox.safe_range,
            namespace=jinja2.utils.Namespace,
            dict=dict,
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
            **names,
        )

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed = super()._parse(source, name, filename)
        _Concatenations().visit(parsed)
        return parsed

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """No `format` at all: its widths may come from anywhere."""
        if getattr(value, "__name__", "") in METHODS_REFUSED and isinstance(
            getattr(value, "__self__", None), str
        ):
            raise SecurityError(f"{value.__name__} is not for templates")
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Small products, short sums, and no formatting to a width of millions."""
        if operator == "%" and isinstance(left, str):
            _check_specifiers(left)
        elif operator == "+":
            _check_length(left, right)
        elif operator in ("*", "**"):
            _check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call in a template; methods that pad, repeat or join get small things only."""
        name, owner = getattr(called, "__name__", ""), getattr(called, "__self__", None)
        if isinstance(owner, str | bytes):
            if name in WIDE_METHODS:
                _check_product("*", 1, args[0] if args else 0)
            if name == "join":
                args = (_joinable(args[0], owner),)
            if name == "replace":
                return _replace(str(owner), *args, **kwargs)
        return super().call(context, called, *args, **kwargs)


def to_json(value: object, indent: int | None = None, *, ensure_ascii: bool = False, **_style: object) -> str:
    """JSON as templates expect it, which is not HTML's: no `\\u003c`."""
    _check_product("*", 1, indent or 0)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=min(indent, 16) if indent else indent)


def _check_product(operator: str, left: object, right: object) -> None:
    sizes = [_size(left), _size(right)]
    too_big = max(sizes) > PRODUCT_MAX or sizes[0] * sizes[1] > PRODUCT_MAX
    if too_big or (operator == "**" and sizes[1] > 64):
        raise SecurityError(f"{operator} of things too large")


def _check_length(left: object, right: object) -> None:
    if isinstance(left, str | list | tuple) and _size(left) + _size(right) > TEXT_MAX_CHARS:
        raise SecurityError("a text or list grows too long")


def _check_specifiers(text: str) -> None:
    """`%` formatting with long numbers in it, or with `*`, which takes them from the arguments."""
    digits = 0
    for char in text:
        digits = digits + 1 if char.isdigit() else 0
        if digits > SPECIFIER_DIGITS_MAX or (char == "*" and "%" in text):
            raise SecurityError("% with a width too large")


def _size(value: object) -> int:
    if isinstance(value, str | bytes | list | tuple | dict):
        return len(value)
    return int(min(abs(value), PRODUCT_MAX + 1)) if isinstance(value, int | float) else 1


@jinja2.pass_eval_context
def _join(context: Any, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    """The filter, over so much that the result stays small."""
    return str(do_join(context, _joinable(value, d), d, attribute))


def _joinable(value: Iterable[Any], separator: object) -> list[Any]:
    items = list(value)
    _check_product("*", str(separator), len(items))
    if sum(len(item) for item in items if isinstance(item, str)) > TEXT_MAX_CHARS:
        raise SecurityError("joined text too long")
    return items


def _replace(s: Any, old: Any, new: Any, count: int = -1) -> str:
    text, before, after = str(s), str(old), str(new)
    places = text.count(before) if before else len(text) + 1
    if places * len(after) > TEXT_MAX_CHARS:
        raise SecurityError("replaced text too long")
    return text.replace(before, after, -1 if count is None else int(count))


def _indent(s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    _check_product("*", str(s).count("\n") + 1, width)
    return str(do_indent(str(s), width, first, blank))


def _raise_exception(message: object = "") -> NoReturn:
    raise TemplateRefusalError(str(message)[:500])


def _strftime_now(form: object) -> str:
    """Today, as some templates tell their model."""
    return time.strftime(str(form)[:100])
