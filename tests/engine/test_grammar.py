"""Schemas become grammars that say exactly what they say, or are refused by name. Number ranges and patterns."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

pytest.importorskip("jsonschema", reason="schemas need jsonschema")

from meshnode.engine.worker import grammar as grammar_module
from meshnode.engine.worker import pattern, ranges, schema
from meshnode.engine.worker.grammar import Grammar, quote
from meshnode.errors import BadRequest

SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))
PARAM = "response_format"


def grammar_of(wanted):
    grammar = Grammar(PARAM)
    return grammar.text(grammar.add(schema.read(json.dumps(wanted), PARAM)).rule)


@pytest.mark.parametrize("case", SCHEMAS["refused"], ids=lambda case: case["names"])
def test_what_cannot_be_guaranteed_is_refused_by_name(case):
    with pytest.raises(BadRequest) as refusal:
        grammar_of(case["schema"])
    assert case["names"] in refusal.value.message
    assert refusal.value.param == PARAM


@pytest.mark.parametrize("case", SCHEMAS["held"], ids=lambda case: case["name"])
def test_the_rest_makes_a_grammar_of_sensible_size(case):
    assert 0 < len(grammar_of(case["schema"])) < 10_000
    assert all(not schema.fault(case["schema"], json.dumps(value)) for value in case["valid"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "must be an object"),
        ('{"const": NaN}', "NaN is not JSON"),
        ('{"maximum": 1' + "0" * 6000 + "}", "cannot be read"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "nested deeper|cannot be read"),
        ('{"properties":{"a":' * 20 + "{}" + "}}" * 20, "nested deeper"),
        ('{"description": "' + "x" * schema.SCHEMA_MAX_CHARS + '"}', "longer than"),
        ('{"properties": {"a": {"$ref": "file:///etc/passwd"}}}', r"\$ref"),
        ('{"properties": {"a": {"$id": "http://x.example/", "$ref": "#/b"}}}', r"\$id"),
        ('{"minimum": "3"}', "not valid at /minimum"),
    ],
)
def test_a_hostile_schema_is_refused(text, says):
    with pytest.raises(BadRequest, match=says):
        schema.read(text, PARAM)


def test_a_reference_is_never_fetched(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("somebody connects"))
    assert "http" in schema.fault({"$ref": "http://127.0.0.1:9/schema.json"}, "1")


def test_schemas_that_would_explode_are_refused(monkeypatch):
    doubling = {"$defs": {f"n{i}": {"anyOf": [{"$ref": f"#/$defs/n{i + 1}"}] * 2} for i in range(20)}}
    doubling["$defs"]["n20"] = {"type": "null"}
    with pytest.raises(BadRequest, match="alternatives"):
        grammar_of({**doubling, "$ref": "#/$defs/n0"})
    monkeypatch.setattr(grammar_module, "NODES_MAX", 100)
    with pytest.raises(BadRequest, match="parts"):
        grammar_of({"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(60)}})


def test_reading_takes_bounded_time(monkeypatch):
    monkeypatch.setattr(schema, "READ_MAX_S", 0.001)
    with pytest.raises(BadRequest, match="took over"):
        schema.read(json.dumps({"enum": list(range(9000))}), PARAM)


def test_checking_a_pattern_that_backtracks_for_ever_is_interrupted(monkeypatch):
    monkeypatch.setattr(schema, "CHECK_MAX_S", 0.1)
    assert "took over" in schema.fault({"pattern": "^(a+)+$"}, json.dumps("a" * 40 + "b"))


def test_constants_keep_their_backslashes():
    assert quote('a\n"\\') == '"a\\x0A\\"\\\\"'


def numbers_of(expression):
    """A checker for a GBNF expression of digits, signs and points: Python's `re` says the same in other words."""
    return re.compile(re.sub(r'"([^"]*)"', lambda found: re.escape(found[1]), expression).replace(" ", ""))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (1, 7), (-17, 233), (99, 1000), (-3, -1), (37, 120), (1000, 1001)]
)
def test_whole_numbers_between_bounds_are_exactly_those(low, high):
    allowed = numbers_of(f"({ranges.integers(Decimal(low), Decimal(high))})")
    for number in range(-1500, 1500):
        assert bool(allowed.fullmatch(str(number))) == (low <= number <= high), number
    assert not allowed.fullmatch("007")


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        ("0", "1", False, False),
        ("0", "1", True, True),
        ("-0.5", "2.25", True, False),
        ("-3.1", "-1", False, True),
    ],
)
def test_numbers_between_bounds_are_all_of_them_to_two_decimals(low, high, above, below):
    least, most = Decimal(low), Decimal(high)
    allowed = numbers_of(f"({ranges.numbers(least, most, above=above, below=below)})")
    for hundredths in range(-500, 500):
        number = Decimal(hundredths) / 100
        inside = (number > least if above else number >= least) and (
            number < most if below else number <= most
        )
        text = f"{number:.2f}"
        assert bool(allowed.fullmatch(text)) == inside or text == "-0.00", text


def test_open_bounds_reach_as_far_as_doubles_are_exact():
    assert numbers_of(f"({ranges.integers(Decimal(1000), None)})").fullmatch("123456789012345")
    assert not numbers_of(f"({ranges.integers(Decimal(1000), None)})").fullmatch("999")


@pytest.mark.parametrize("bounds", [("5", "2"), ("0.2", "0.7")])
def test_a_range_without_whole_numbers_is_an_error(bounds):
    with pytest.raises(ranges.RangeError):
        ranges.integers(*map(Decimal, bounds))


@pytest.mark.parametrize(
    "source",
    [
        "abc",
        "^abc",
        "abc$",
        "^(?=a)b$",
        "^((a+)+)+$",
        "^a{999}$",
        "^(a)\\1$",
        "^[^\\x00-\\x7f]$",
        '^"$',
        "^(|a)$",
        "^[$",
        f"^{'a*' * 20}$",
        f"^{'a' * 600}$",
    ],
)
def test_patterns_that_a_grammar_cannot_say_are_errors(source):
    with pytest.raises(pattern.PatternError):
        pattern.to_gbnf(source)
