"""JSON Schema to llama.cpp's grammars (GBNF), so that a model can write nothing but a valid instance.

The converter that llama-cpp-python ships was tried and is not used: it lets control characters into strings,
loses backslashes in constants, mixes up references of one last name, and ignores what it does not know
(`minimum`, `uniqueItems`, `pattern` without anchors), so that invalid answers would end as if they were good.

Every value begins with a character and no rule is empty twice over, which keeps llama.cpp's matching linear.
Strings and arrays that the schema leaves open are bounded, since a small model knows no end.
"""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

from meshnode.engine.worker import pattern, ranges
from meshnode.engine.worker.merging import disjoint, merge
from meshnode.engine.worker.schema import ANNOTATIONS, REFUSED, TYPES, Schema, refuse, target, validator
from meshnode.errors import BadRequest

STRING_MAX_CHARS = 2000  # llama.cpp takes longer repetitions for endless ones
ITEMS_MAX = 64  # of an array, and members of an object, that the schema leaves open
KEY_MAX_CHARS = 64
ANY_DEPTH = 4  # of a value about which the schema says nothing
NODES_MAX = 2000
ALTERNATIVES_MAX = 256  # that begin at the same place
TEXT_MAX_CHARS = 512 * 1024

BASE = {
    "sp": '" "?',
    "char": r'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" unit)',
    "unit": "[0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}",  # no half of a surrogate pair
    "key": rf'"\"" char{{1,{KEY_MAX_CHARS}}} "\""',
    "text": rf'"\"" char{{0,{STRING_MAX_CHARS}}} "\""',
    "number": ranges.numbers(None, None),
    "value0": 'text | number | "true" | "false" | "null"',
}
FORMATS = {
    "date": '[0-9]{4} "-" (("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
    ' | ("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30")'
    ' | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})?'
    ' ("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
    "ipv4": f"({ranges.integers(Decimal(0), Decimal(255))})"
    + f' "." ({ranges.integers(Decimal(0), Decimal(255))})' * 3,
    "email": '[a-z0-9] [a-z0-9._-]{0,30} "@" [a-z0-9] [a-z0-9-]{0,30} ("." [a-z] [a-z0-9]{1,15}){1,3}',
    "uri": '"http" "s"? "://" [a-z0-9] [a-z0-9-]{0,30} ("." [a-z0-9] [a-z0-9-]{0,30}){1,4}'
    ' ("/" [a-zA-Z0-9._~-]{0,40}){0,8}',
}
FORMATS["date-time"] = f'{FORMATS["date"]} "T" {FORMATS["time"]}'
FORMATS["url"] = FORMATS["uri"]


class Shape(NamedTuple):
    """A rule: its name, the fewest characters it can make, and how many alternatives begin with it."""

    rule: str
    shortest: int
    heads: int = 1


class Grammar:
    """Gathers rules. `param` is the request's field that is to blame for whatever is wrong."""

    def __init__(self, param: str) -> None:
        self._param = param
        self._rules = dict(BASE)
        self._nodes = 0
        for depth in range(1, ANY_DEPTH + 1):
            self._rules[f"value{depth}"] = _any_value(depth)

    def text(self, root: str) -> str:
        """The whole grammar, whose answer is the expression `root`. Raises BadRequest when it is too long."""
        rules = {**self._rules, "root": root}
        text = "\n".join(f"{name} ::= {rule}" for name, rule in rules.items())
        if len(text) > TEXT_MAX_CHARS:
            raise BadRequest("the JSON schema makes too large a grammar", param=self._param)
        return text

    def add(self, schema: Schema) -> Shape:
        """Rules for a schema that `schema.read` has let through. Raises BadRequest naming the keyword."""
        return _Writer(self, schema, self._param).visit(schema, frozenset())

    def rule(self, text: str, shortest: int, heads: int = 1) -> Shape:
        """A new rule."""
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise BadRequest(f"the JSON schema has more than {NODES_MAX} parts", param=self._param)
        name = f"r{self._nodes}"
        self._rules[name] = text
        return Shape(name, shortest, heads)

    def define(self, name: str, text: str) -> None:
        """Give a rule that was named before its text."""
        self._rules[name] = text


class _Writer:
    """Writes one schema, whose references point into it. `heads` are those being followed right here."""

    def __init__(self, grammar: Grammar, root: Schema, param: str) -> None:
        self._grammar = grammar
        self._root = root
        self._param = param
        self._validator = validator(root)
        self._refs: dict[str, Shape] = {}
        self._kinds: dict[str, Callable[[Schema], Shape]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda _schema: self._rule('"true" | "false"', 4, 2),
            "null": lambda _schema: self._rule('"null"', 4),
        }

    def visit(self, schema: Any, heads: frozenset[str]) -> Shape:
        if schema is True:
            return Shape(f"value{ANY_DEPTH}", 1, len(TYPES))
        if schema is False:
            self._refuse("false", "allows nothing")
        for keyword in REFUSED:
            if keyword in schema:
                self._refuse(keyword, "cannot be guaranteed by the grammar that holds a model to a schema")
        if "$ref" in schema:
            return self._reference(schema, heads)
        if "allOf" in schema:
            return self.visit(self._all_of(schema, heads), heads)
        if "enum" in schema or "const" in schema:
            return self._literals(schema)
        if "anyOf" in schema or "oneOf" in schema:
            return self._any_of(schema, heads)
        return self._typed(schema)

    def _refuse(self, keyword: str, why: str) -> NoReturn:
        refuse(keyword, why, self._param)

    def _rule(self, text: str, shortest: int, heads: int = 1) -> Shape:
        return self._grammar.rule(text, shortest, heads)

    def _reference(self, schema: Schema, heads: frozenset[str]) -> Shape:
        reference = str(schema["$ref"])
        beside = {key: value for key, value in schema.items() if key != "$ref" and key not in ANNOTATIONS}
        if reference in heads:
            self._refuse("$ref", f"{reference[:100]} refers to itself")
        if beside:
            return self.visit(self._all_of({"allOf": [{"$ref": reference}], **beside}, heads), heads)
        if reference not in self._refs:
            # Named before it is written, since it may contain itself.
            named = self._refs[reference] = self._rule('"null"', 2)
            found = self.visit(target(self._root, reference, self._param), heads | {reference})
            self._grammar.define(named.rule, found.rule)
            self._refs[reference] = found._replace(rule=named.rule)
        return self._refs[reference]

    def _all_of(self, schema: Schema, heads: frozenset[str]) -> Schema:
        merged: Schema = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged = merge(merged, self._resolved(part, heads), self._param)
        return merged

    def _resolved(self, schema: Any, heads: frozenset[str]) -> Schema:
        """A schema without a reference at its top, to be merged."""
        if isinstance(schema, bool):
            return {} if schema else self._refuse("false", "allows nothing")
        if "$ref" not in schema:
            return dict(schema)
        reference = str(schema["$ref"])
        if reference in heads:
            self._refuse("$ref", f"{reference[:100]} refers to itself")
        found = self._resolved(target(self._root, reference, self._param), heads | {reference})
        return merge({key: value for key, value in schema.items() if key != "$ref"}, found, self._param)

    def _literals(self, schema: Schema) -> Shape:
        """Those constants that the rest of the schema allows as well."""
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        allowed = [json.dumps(value, ensure_ascii=False) for value in values if self._is_valid(schema, value)]
        if not allowed:
            self._refuse("enum" if "enum" in schema else "const", "allows nothing that the rest allows")
        return self._union([self._rule(quote(text), len(text)) for text in dict.fromkeys(allowed)])

    def _any_of(self, schema: Schema, heads: frozenset[str]) -> Shape:
        keyword = "anyOf" if "anyOf" in schema else "oneOf"
        if "oneOf" in schema and "anyOf" in schema:
            self._refuse("oneOf", "cannot stand beside anyOf")
        beside = {k: v for k, v in schema.items() if k != keyword and k not in ANNOTATIONS}
        parts = schema[keyword]
        if keyword == "oneOf":
            self._check_disjoint([self._resolved(part, heads) for part in parts])
        if beside:
            parts = [merge(beside, self._resolved(part, heads), self._param) for part in parts]
        return self._union([self.visit(part, heads) for part in parts])

    def _check_disjoint(self, parts: Sequence[Schema]) -> None:
        for index, one in enumerate(parts):
            if not all(disjoint(one, other, self._is_valid) for other in parts[:index]):
                self._refuse("oneOf", "has alternatives that may hold at once; use anyOf, or a const in each")

    def _is_valid(self, schema: Schema, value: Any) -> bool:
        return bool(self._validator.evolve(schema=schema).is_valid(value))

    def _union(self, shapes: Sequence[Shape]) -> Shape:
        heads = sum(shape.heads for shape in shapes)
        if heads > ALTERNATIVES_MAX:
            raise BadRequest(
                f"the JSON schema has over {ALTERNATIVES_MAX} alternatives in one place", param=self._param
            )
        if len(shapes) == 1:
            return shapes[0]
        return self._rule(
            " | ".join(shape.rule for shape in shapes), min(shape.shortest for shape in shapes), heads
        )

    def _typed(self, schema: Schema) -> Shape:
        types = schema.get("type", _implied(schema))
        names = types if isinstance(types, list) else [types]
        if not names:
            return self.visit(True, frozenset())
        if "number" in names:
            names = [name for name in names if name != "integer"]
        return self._union([self._kinds[name](schema) for name in names])

    def _string(self, schema: Schema) -> Shape:
        least, most = _whole(schema, "minLength", 0), _whole(schema, "maxLength", STRING_MAX_CHARS)
        bounded = "minLength" in schema or "maxLength" in schema
        fixed = next((name for name in ("pattern", "format") if name in schema), "")
        if fixed and bounded:
            self._refuse(fixed, "cannot be combined with a length")
        if "pattern" in schema and "format" in schema:
            self._refuse("pattern", "cannot be combined with format")
        if "pattern" in schema:
            return self._patterned(schema["pattern"])
        if "format" in schema:
            if schema["format"] not in FORMATS:
                self._refuse("format", f"{str(schema['format'])[:40]} is not one of {', '.join(FORMATS)}")
            return self._rule(rf'"\"" ({FORMATS[schema["format"]]}) "\""', 12)
        if least > STRING_MAX_CHARS or most < least:
            self._refuse("minLength", f"is over maxLength or over {STRING_MAX_CHARS}")
        if not bounded:
            return Shape("text", 2)
        return self._rule(rf'"\"" char{{{least},{min(most, STRING_MAX_CHARS)}}} "\""', least + 2)

    def _patterned(self, source: str) -> Shape:
        try:
            inside = pattern.to_gbnf(source)
        except pattern.PatternError as error:
            self._refuse("pattern", str(error))
        return self._rule(rf'"\"" {inside} "\""', 2 + len(source))

    def _integer(self, schema: Schema) -> Shape:
        return self._ranged(schema, whole=True)

    def _number(self, schema: Schema) -> Shape:
        if schema.get("multipleOf") == 1:
            return self._ranged(schema, whole=True)
        return self._ranged(schema, whole=False)

    def _ranged(self, schema: Schema, *, whole: bool) -> Shape:
        if "multipleOf" in schema and not (whole and schema["multipleOf"] == 1):
            self._refuse("multipleOf", "cannot be guaranteed by a grammar, unless it is 1")
        low, above = _bound(schema, "minimum", "exclusiveMinimum", max)
        high, below = _bound(schema, "maximum", "exclusiveMaximum", min)
        try:
            if whole:
                low = low + 1 if low is not None and above and low == int(low) else low
                high = high - 1 if high is not None and below and high == int(high) else high
                return self._rule(ranges.integers(low, high), 1)
            return self._rule(ranges.numbers(low, high, above=above, below=below), 1)
        except ranges.RangeError as error:
            keyword = next(
                k for k in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if k in schema
            )
            self._refuse(keyword, str(error))

    def _array(self, schema: Schema) -> Shape:
        first = [self.visit(item, frozenset()) for item in schema.get("prefixItems", ())]
        least, asked = _whole(schema, "minItems", 0), _whole(schema, "maxItems", max(ITEMS_MAX, len(first)))
        rest = schema.get("items", True) is not False
        most = min(asked, max(least, ITEMS_MAX, len(first)) if rest else len(first))
        if schema.get("uniqueItems") and most > 1:
            self._refuse("uniqueItems", "cannot be guaranteed by a grammar")
        if most < least or least > STRING_MAX_CHARS:
            self._refuse("minItems", "asks for more items than there may be")
        item = self.visit(schema.get("items", True), frozenset()) if rest and most > len(first) else None
        return self._items(first, item, least, most)

    def _items(self, first: Sequence[Shape], item: Shape | None, least: int, most: int) -> Shape:
        text, shortest = "", 2
        if item and most > len(first):
            low, high = max(0, least - len(first)), most - len(first)
            # With nothing before it the first of the rest has no comma.
            comma = f'("," sp {item.rule})'
            head = f"{item.rule} {comma}{{{max(0, low - 1)},{high - 1}}}"
            text = f"{comma}{{{low},{high}}}" if first else (head if low else f"({head})?")
            shortest += low * (item.shortest + 1)
        for place in range(min(len(first), most) - 1, -1, -1):
            written = f"{'' if not place else chr(34) + ',' + chr(34) + ' sp '}{first[place].rule} {text}"
            text = written if place < least else f"({written})?"
            shortest += first[place].shortest + 1 if place < least else 0
        return self._rule(f'"[" {text} "]"', shortest)

    def _object(self, schema: Schema) -> Shape:
        if "unevaluatedProperties" in schema and schema["unevaluatedProperties"] is not False:
            self._refuse("unevaluatedProperties", "may only be false")
        properties = {**schema.get("properties", {})}
        extra = schema.get("additionalProperties", True)
        required = list(dict.fromkeys(schema.get("required", ())))
        for name in required:
            if name not in properties:
                if extra is False:
                    self._refuse("required", f"names {name[:60]}, which is not allowed")
                properties[name] = extra
        self._check_counts(schema, len(required), len(properties))
        if properties or extra is False or schema.get("unevaluatedProperties") is False:
            return self._members(properties, required)
        return self._map(extra, schema)

    def _check_counts(self, schema: Schema, required: int, named: int) -> None:
        if _whole(schema, "minProperties", 0) > (required if named else 1):
            self._refuse("minProperties", "asks for more than what is required")
        if named > _whole(schema, "maxProperties", named):
            self._refuse("maxProperties", "allows fewer than there are properties")

    def _map(self, extra: Any, schema: Schema) -> Shape:
        """An object of any keys: `additionalProperties` without `properties`."""
        value = Shape(f"value{ANY_DEPTH - 1}", 1) if extra is True else self.visit(extra, frozenset())
        most = min(_whole(schema, "maxProperties", ITEMS_MAX), ITEMS_MAX)
        if not most:
            return self._rule('"{" "}"', 2)
        member = self._rule(f'key ":" sp {value.rule}', 5 + value.shortest)
        text = f'{member.rule} ("," sp {member.rule}){{0,{most - 1}}}'
        least = _whole(schema, "minProperties", 0)
        return self._rule(f'"{{" {text if least else f"({text})?"} "}}"', 2 + least * member.shortest)

    def _members(self, properties: dict[str, Any], required: Sequence[str]) -> Shape:
        """Named members in their order, each rule being what follows when something, or nothing, stands before."""
        shortest, after, start = 2, "", ""
        for name, schema in reversed(properties.items()):
            value = self.visit(schema, frozenset())
            key = json.dumps(name, ensure_ascii=False)
            member = self._rule(f'{quote(key)} ":" sp {value.rule}', len(key) + 1 + value.shortest)
            written = f"{member.rule} {after}"
            after_text = f'"," sp {written}' if name in required else f'("," sp {member.rule})? {after}'
            start = written if name in required else f"{written} | {start or quote('')}"
            shortest += member.shortest + 1 if name in required else 0
            after = self._rule(after_text, 0).rule
            start = self._rule(start, 0).rule
        return self._rule(f'"{{" {start} "}}"', shortest)


def quote(text: str) -> str:
    """A GBNF literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char >= " " else f"\\x{ord(char):02X}" for char in escaped) + '"'


def _any_value(depth: int) -> str:
    inner = f"value{depth - 1}"
    members = f'key ":" sp {inner} ("," sp key ":" sp {inner}){{0,{ITEMS_MAX - 1}}}'
    items = f'{inner} ("," sp {inner}){{0,{ITEMS_MAX - 1}}}'
    return f'"{{" ({members})? "}}" | "[" ({items})? "]" | value0'


def _whole(schema: Schema, keyword: str, default: int) -> int:
    """A count; JSON may write 3 as 3.0."""
    return int(schema.get(keyword, default))


def _implied(schema: Schema) -> list[str]:
    """What kind of value a schema without a `type` speaks of, if of any."""
    kinds = {
        "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
        "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
        "string": ("minLength", "maxLength", "pattern", "format"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
    return [kind for kind, keywords in kinds.items() if any(keyword in schema for keyword in keywords)]


def _bound(
    schema: Schema, keyword: str, exclusive: str, tightest: Callable[..., Decimal]
) -> tuple[Decimal | None, bool]:
    """The tighter of two bounds, and whether it is left out itself."""
    including = Decimal(repr(schema[keyword])) if keyword in schema else None
    excluding = Decimal(repr(schema[exclusive])) if exclusive in schema else None
    if excluding is None or (including is not None and tightest(including, excluding) != excluding):
        return including, False
    return excluding, True
