"""A caller's JSON Schema, which is hostile input: read under bounds, checked, and never fetched from anywhere.

A keyword that the grammar cannot express is refused by name: an answer that silently breaks it would be a lie.
Pure but for the clock that bounds the time.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

import jsonschema
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

from meshnode.engine.worker.alarm import TooLongError, time_bound
from meshnode.errors import BadRequest

SCHEMA_MAX_CHARS = 64 * 1024
SCHEMA_MAX_DEPTH = 32
READ_MAX_S = 1.0  # nobody else gets a token meanwhile
CHECK_MAX_S = 1.0
SCHEMAS_KEPT = 32  # callers send one schema many times, and each answer is checked at its end

Schema = Mapping[str, Any]

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
ANY_OBJECT: Schema = {"type": "object"}
ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
    | {"$schema", "$id", "$defs", "definitions", "contentEncoding", "contentMediaType", "contentSchema"}
)
REFUSED = (
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
    *("patternProperties", "propertyNames", "contains", "unevaluatedItems"),
    *("$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$vocabulary"),
)


def refuse(keyword: str, why: str, param: str) -> NoReturn:
    """BadRequest that names a keyword."""
    raise BadRequest(f"the JSON schema's `{keyword}` {why}", param=param)


@lru_cache(maxsize=SCHEMAS_KEPT)
def read(text: str, param: str) -> Schema:
    """A schema from its text, valid as Draft 2020-12 says. Raises BadRequest naming `param`."""
    if len(text) > SCHEMA_MAX_CHARS:
        raise BadRequest(f"the JSON schema is longer than {SCHEMA_MAX_CHARS} characters", param=param)
    try:
        with time_bound(READ_MAX_S):
            return _checked(json.loads(text, parse_constant=_no_constant), param)
    except TooLongError:
        raise BadRequest(f"the JSON schema took over {READ_MAX_S:.0f} s to read", param=param) from None
    except SchemaError as error:
        where = "/".join(str(step) for step in error.absolute_path)
        raise BadRequest(
            f"the JSON schema is not valid at /{where}: {error.message[:300]}", param=param
        ) from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise BadRequest(f"the JSON schema cannot be read: {str(error)[:300]}", param=param) from None


def validator(schema: Schema) -> jsonschema.Draft202012Validator:
    """Checks values against a schema; a reference leads nowhere outside it."""
    return jsonschema.Draft202012Validator(schema, registry=Registry())


def fault(schema: Schema, text: str) -> str:
    """What is wrong with `text` as an instance, in a line; empty when nothing is."""
    try:
        with time_bound(CHECK_MAX_S):
            error: ValidationError | None = best_match(
                validator(schema).iter_errors(json.loads(text, parse_constant=_no_constant))
            )
    except TooLongError:
        return f"checking it took over {CHECK_MAX_S:.0f} s"
    except (ValueError, RecursionError, Unresolvable) as broken:
        return str(broken)[:300]
    return "" if error is None else f"{error.json_path}: {error.message[:300]}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _checked(schema: Any, param: str) -> Schema:
    if not isinstance(schema, dict):
        raise BadRequest("the JSON schema must be an object", param=param)
    _bound(schema, 0, param)
    plain = {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
    jsonschema.Draft202012Validator.check_schema(plain)
    return plain


def _bound(value: Any, depth: int, param: str) -> None:
    """Refuse what is too deep, and references that leave the schema, wherever they stand."""
    if depth > SCHEMA_MAX_DEPTH:
        raise BadRequest(f"the JSON schema is nested deeper than {SCHEMA_MAX_DEPTH}", param=param)
    if isinstance(value, list):
        for item in value:
            _bound(item, depth + 1, param)
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            refuse("$ref", "must stay inside the schema, as in #/$defs/name", param)
        if depth and isinstance(value.get("$id"), str):
            refuse("$id", "may only stand at the top", param)
        for item in value.values():
            _bound(item, depth + 1, param)


def target(root: Schema, reference: str, param: str) -> Any:
    """What a `$ref` into the schema points at."""
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(key)] if isinstance(found, list) else found[key]
        except (LookupError, TypeError, ValueError):
            refuse("$ref", f"points at {reference[:100]}, which is not there", param)
    if reference not in ("#", "") and not reference.startswith("#/"):
        refuse("$ref", f"must be a path such as #/$defs/name, not {reference[:100]}", param)
    return found
