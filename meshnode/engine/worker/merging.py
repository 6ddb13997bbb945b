"""Schemas held against each other: `allOf` merged into one, `oneOf` shown to be disjoint. Pure.

Only what can be said exactly is merged; the rest is refused by keyword.
"""

from collections.abc import Callable
from typing import Any

from meshnode.engine.worker.schema import ANNOTATIONS, TYPES, Schema, refuse

TIGHTEST: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}


def merge(first: Schema, second: Schema, param: str) -> dict[str, Any]:
    """The schema that holds where both do."""
    merged = dict(first)
    _check_closed(first, second, param)
    for key, value in second.items():
        if key not in merged:
            merged[key] = value
        elif merged[key] != value and key not in ANNOTATIONS:
            merged[key] = _both(key, merged[key], value, param)
    return merged


def _both(key: str, first: Any, second: Any, param: str) -> Any:
    if key in TIGHTEST:
        return TIGHTEST[key](first, second)
    if key == "required":
        return list(dict.fromkeys([*first, *second]))
    if key == "properties":
        return {
            name: {"allOf": [first[name], second[name]]}
            if name in first and name in second
            else {**second, **first}[name]
            for name in {**first, **second}
        }
    if key == "enum":
        return [value for value in first if value in second]
    if key == "type":
        return _common_types(_listed(first), _listed(second)) or refuse(key, "allows nothing in allOf", param)
    return refuse(key, "is there twice, in allOf or beside anyOf, and cannot be combined", param)


def _listed(types: Any) -> list[str]:
    return types if isinstance(types, list) else [types]


def _common_types(first: list[str], second: list[str]) -> list[str]:
    wide = [*second, "integer"] if "number" in second else second
    common = [name for name in first if name in wide]
    if "number" in first and "integer" in second and "integer" not in common:
        common.append("integer")
    return common


def _check_closed(first: Schema, second: Schema, param: str) -> None:
    """`additionalProperties` sees only the properties beside it, so a merged one would mean something else."""
    for one, other in ((first, second), (second, first)):
        beyond = [name for name in other.get("properties", ()) if name not in one.get("properties", ())]
        if "additionalProperties" in one and beyond:
            refuse("additionalProperties", f"stands beside other properties ({beyond[0]})", param)


def disjoint(one: Schema, other: Schema, is_valid: Callable[[Schema, Any], bool]) -> bool:
    """Whether surely no value can be an instance of both: by type, by constants, or by a member's constant."""
    if not _kinds(one) & _kinds(other):
        return True
    constants = _constants(one) or _constants(other)
    if constants is not None:
        schema = other if _constants(one) is not None else one
        return not any(is_valid(schema, value) for value in constants)
    return any(
        name in one.get("required", ()) and name in other.get("required", ()) and _tell_apart(first, second)
        for name, first in one.get("properties", {}).items()
        for second in [other.get("properties", {}).get(name)]
    )


def _tell_apart(first: Any, second: Any) -> bool:
    constants = [_constants(schema) if isinstance(schema, dict) else None for schema in (first, second)]
    if constants[0] is None or constants[1] is None:
        return False
    return not [value for value in constants[0] if value in constants[1]]


def _kinds(schema: Schema) -> frozenset[str]:
    named = _listed(schema.get("type", list(TYPES)))
    return frozenset([*named, "integer"] if "number" in named else named)


def _constants(schema: Schema) -> list[Any] | None:
    found: list[Any] | None = [schema["const"]] if "const" in schema else schema.get("enum")
    return found
