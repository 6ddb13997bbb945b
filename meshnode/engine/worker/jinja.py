"""The place where a model file's template runs: jinja2's immutable sandbox, with every way to fill memory closed.

A template is hostile input (CVE-2024-34359). Python code in it is interrupted after a time, but one long call in
C is not, so those that can make much out of little are bounded by what goes into them. It knows no models.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import do_indent, do_int, do_join
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

PRODUCT_MAX = 1 << 20  # of a `*` or `**`, of a width, of a joined text's separators
TEXT_MAX_CHARS = 8 << 20  # of any text that a template makes; a prompt is smaller
WEIGHT_MAX = 1 << 19  # values inside one value; a list that is in another twice counts twice
SPECIFIER_DIGITS_MAX = 3  # in '%999d'
NUMBER_MAX_CHARS = 100  # of a text that becomes a number
METHODS_REFUSED = frozenset(
    {"format", "format_map", "translate", "expandtabs", "encode", "to_bytes", "from_bytes"}
)
WIDE_METHODS = frozenset({"center", "ljust", "rjust", "zfill"})
FILTERS = frozenset(
    {"abs", "capitalize", "count", "default", "d", "dictsort", "e", "escape", "first", "float", "groupby"}
    | {"items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse"}
    | {"round", "safe", "select", "selectattr", "sort", "sum", "title", "trim", "truncate"}
    | {"unique", "upper", "wordcount"}
)


class TemplateRefusalError(Exception):
    """The template itself says no, through `raise_exception`."""


class _Generation(Extension):
    """A block that marks, for training, what the assistant says; for us it is its content."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Bounding(NodeTransformer):
    """Puts a filter that bounds it around whatever else builds a text or a list unseen."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - jinja2 looks for these names
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "concatenated")

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "weighed")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "weighed")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "weighed") if node.ctx == "load" else node


def _filtered(node: nodes.Expr, name: str) -> nodes.Node:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _weighed(value: Any) -> Any:
    """A value that holds little, at whatever depth: printing or comparing it takes as long as it is heavy.

    Lists that hold one list twice, and are held twice themselves, double with every level.
    """
    if _weight(value, {}) > WEIGHT_MAX:
        raise SecurityError("a list or mapping holds too much")
    return value


def _weight(value: Any, known: dict[int, int]) -> int:
    if isinstance(value, Mapping):
        inside: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple):
        inside = value
    else:
        return 1
    if id(value) not in known:
        known[id(value)] = 1 + sum(_weight(item, known) for item in inside)
    return known[id(value)]


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
            {"join": _join, "replace": _replace, "indent": _indent, "int": _int, "string": str}
            | {"tojson": to_json, "concatenated": _concatenate, "weighed": _weighed}
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
        _Bounding().visit(parsed)
        return parsed

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Refuse `format` and its like before it is called: its widths may come from anywhere."""
        if callable(value) and getattr(value, "__name__", "") in METHODS_REFUSED:
            raise SecurityError(f"{value.__name__} is not for templates")
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Small products, short sums, and no formatting to a width of millions."""
        if operator == "%" and isinstance(left, str):
            _check_specifiers(left, right)
        elif operator == "+":
            _check_sum(left, right)
        elif operator in ("*", "**"):
            _check_product(left, right, power=operator == "**")
        made = super().call_binop(context, operator, left, right)
        return _weighed(made) if isinstance(made, list | tuple) else made

    def call(self, context: Any, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call in a template; methods that pad or join or replace get small things only."""
        _weighed([args, kwargs])
        name, owner = getattr(called, "__name__", ""), getattr(called, "__self__", None)
        if isinstance(owner, str | bytes):
            if name in WIDE_METHODS:
                _check_product(1, args[0] if args else 0)
            if name == "join" and args:
                args = (_joinable(args[0], owner),)
            if name == "replace":
                _check_replacement(str(owner), *[str(arg) for arg in args[:2]])
        return super().call(context, called, *args, **kwargs)


def to_json(value: object, indent: int | None = None, *, ensure_ascii: bool = False, **_style: object) -> str:
    """JSON as templates expect it, which is not HTML's: no `\\u003c`."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=min(indent, 16) if indent else indent)


def _check_product(left: object, right: object, *, power: bool = False) -> None:
    sizes = [_size(left), _size(right)]
    if max(sizes) > PRODUCT_MAX or sizes[0] * sizes[1] > PRODUCT_MAX or (power and sizes[1] > 64):
        raise SecurityError("a product of things too large")


def _check_sum(left: object, right: object) -> None:
    if isinstance(left, str | list | tuple) and _size(left) + _size(right) > TEXT_MAX_CHARS:
        raise SecurityError("a text or list grows too long")


def _check_specifiers(text: str, values: object) -> None:
    """`%` formatting with long numbers in it, with `*`, which takes them from the values, or with much text."""
    digits = longest = 0
    for char in text:
        digits = digits + 1 if char.isdigit() else 0
        longest = max(longest, digits)
    shown = len(str(_weighed(values)))
    if longest > SPECIFIER_DIGITS_MAX or "*" in text or shown * text.count("%") > TEXT_MAX_CHARS:
        raise SecurityError("% with a width too large")


def _check_replacement(text: str, old: str = "", new: str = "") -> None:
    places = text.count(old) if old else len(text) + 1
    if len(text) + places * len(new) > TEXT_MAX_CHARS:
        raise SecurityError("replaced text too long")


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
    _check_product(str(separator), len(items))
    if sum(len(item) for item in items if isinstance(item, str)) > TEXT_MAX_CHARS:
        raise SecurityError("joined text too long")
    return items


def _replace(s: Any, old: Any, new: Any, count: int = -1) -> str:
    _check_replacement(str(s), str(old), str(new))
    return str(s).replace(str(old), str(new), -1 if count is None else int(count))


def _indent(s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    text = str(s)
    _check_product(text.count("\n") + 1, len(width) if isinstance(width, str) else width)
    return str(do_indent(text, width, first, blank))


def _int(value: Any, default: int = 0, base: int = 10) -> int:
    return do_int(value[:NUMBER_MAX_CHARS] if isinstance(value, str) else value, default, base)


def _raise_exception(message: object = "") -> NoReturn:
    raise TemplateRefusalError(str(message)[:500])


def _strftime_now(form: object) -> str:
    """Today, as some templates tell their model."""
    return time.strftime(str(form)[:100])
