"""Regular expressions as GBNF, for a JSON string's `pattern`. Pure.

Python's own parser reads the expression; what a grammar cannot say, or what would make it ambiguous beyond
measure, is PatternError. An expression must be anchored at both ends: otherwise anything may stand around it,
and a model would rather write anything.
"""

import re
from collections.abc import Sequence
from re import _constants as kind  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

SOURCE_MAX_CHARS = 512
REPEATS_MAX = 256  # of one part; what has no upper bound gets UNBOUNDED_REPEATS
UNBOUNDED_REPEATS = 32
NESTED_MAX = 1024  # ways to stand inside repetitions within repetitions
VARIABLE_MAX = 16  # parts of variable length in one expression
CHARS_FORBIDDEN = '"\\\\\\x00-\\x1F\\x7F'  # in a GBNF class: what JSON writes with a backslash
CATEGORIES = {kind.CATEGORY_DIGIT: "0-9", kind.CATEGORY_WORD: "a-zA-Z0-9_", kind.CATEGORY_SPACE: " "}


class PatternError(ValueError):
    """The expression cannot be turned into a grammar."""


def to_gbnf(source: str) -> str:
    """An expression for the inside of a JSON string that matches the whole of `source`."""
    if len(source) > SOURCE_MAX_CHARS:
        raise PatternError(f"is longer than {SOURCE_MAX_CHARS} characters")
    try:
        parsed = list(parser.parse(source))
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"is not a regular expression: {error}") from error
    if not _is_anchor(parsed[:1], kind.AT_BEGINNING) or not _is_anchor(parsed[-1:], kind.AT_END):
        raise PatternError("must begin with ^ and end with $")
    return _Pattern().sequence(parsed[1:-1]) or '""'


def _is_anchor(parts: Sequence[Any], which: object) -> bool:
    return bool(parts) and parts[0] == (kind.AT, which)


class _Pattern:
    """Counts what varies while it writes."""

    def __init__(self) -> None:
        self._variable = 0
        self._nested = 1

    def sequence(self, parts: Sequence[Any]) -> str:
        return " ".join(self._part(name, argument) for name, argument in parts)

    def _part(self, name: object, argument: Any) -> str:
        if name is kind.LITERAL:
            return _literal(argument)
        if name is kind.NOT_LITERAL:
            return f"[^{_class_char(argument)}{CHARS_FORBIDDEN}]"
        if name is kind.ANY:
            return f"[^{CHARS_FORBIDDEN}]"
        if name is kind.IN:
            return _class(argument)
        if name is kind.BRANCH:
            return f"({' | '.join(self.sequence(list(branch)) or _empty() for branch in argument[1])})"
        if name is kind.SUBPATTERN and not argument[1] and not argument[2]:
            return f"({self.sequence(list(argument[3])) or _empty()})"
        if name in (kind.MAX_REPEAT, kind.MIN_REPEAT):
            return self._repeat(*argument)
        raise PatternError(f"uses {str(name).lower()}, which a grammar cannot express")

    def _repeat(self, least: int, most: Any, body: Sequence[Any]) -> str:
        highest = int(most) if most is not kind.MAXREPEAT else max(least, UNBOUNDED_REPEATS)
        if highest > REPEATS_MAX:
            raise PatternError(f"repeats something more than {REPEATS_MAX} times")
        varies = highest != least
        outer = self._nested
        self._variable += varies
        self._nested *= highest if varies else 1
        if self._variable > VARIABLE_MAX or self._nested > NESTED_MAX:
            raise PatternError("has too many repetitions, or repetitions inside repetitions")
        inside = self.sequence(list(body)) or _empty()
        self._nested = outer
        return f"({inside}){{{least},{highest}}}"


def _empty() -> str:
    raise PatternError("has an empty part")


def _literal(code: int) -> str:
    _check(code)
    return f"[{_class_char(code)}]"


def _class(items: Sequence[tuple[Any, Any]]) -> str:
    if items and items[0][0] is kind.NEGATE:
        return _negated(items)
    return f"[{''.join(_class_item(name, argument) for name, argument in items)}]"


def _negated(items: Sequence[tuple[Any, Any]]) -> str:
    """What is left of printable ASCII: beyond it, Python's own categories hold more than a class can say."""
    matched = re.compile(f"[{''.join(_plain_item(name, argument) for name, argument in items[1:])}]")
    left = [code for code in range(0x20, 0x7F) if code not in b'"\\' and not matched.match(chr(code))]
    if not left:
        raise PatternError("has a class that matches nothing")
    return f"[{''.join(map(_class_char, left))}]"


def _plain_item(name: Any, argument: Any) -> str:
    if name is kind.CATEGORY and argument in CATEGORIES:
        return CATEGORIES[argument]
    if name is kind.LITERAL:
        return re.escape(chr(argument))
    if name is kind.RANGE:
        return f"{re.escape(chr(argument[0]))}-{re.escape(chr(argument[1]))}"
    raise PatternError("has a class that a grammar cannot express")


def _class_item(name: Any, argument: Any) -> str:
    if name is kind.CATEGORY and argument in CATEGORIES:
        return CATEGORIES[argument]
    if name is kind.LITERAL:
        _check(argument)
        return _class_char(argument)
    if name is kind.RANGE:
        low, high = argument
        _check(low)
        if any(low <= bad <= high for bad in (*b'"\\', 0x7F, 0xD800)):
            raise PatternError("has a class with a quote or a backslash in it")
        return f"{_class_char(low)}-{_class_char(high)}"
    raise PatternError("has a class that a grammar cannot express")


def _check(code: int) -> None:
    if code < 0x20 or code in (*b'"\\', 0x7F) or 0xD800 <= code <= 0xDFFF:
        raise PatternError("has a control character, a quote or a backslash in it")


def _class_char(code: int) -> str:
    return f"\\U{code:08X}"
