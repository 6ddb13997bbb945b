"""The smallest thing that a JSON Schema allows, for engines that have no model. It knows the common keywords.

It fetches nothing: a `$ref` is followed inside its own document, and all that is built is bounded.
"""

from collections.abc import Mapping
from typing import Any

VALUES_MAX = 4096
CHARACTERS_MAX = 4096
ALTERNATIVES = ("anyOf", "oneOf", "allOf")


class NoInstance(ValueError):
    """The schema cannot be read, or asks for more than this module understands."""


def minimal(schema: Any) -> Any:
    """A small value that is valid; raises NoInstance."""
    return _Builder(schema).build(schema)


class _Builder:
    """Builds one value, of a bounded number of parts."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = VALUES_MAX

    def build(self, schema: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise NoInstance(f"more than {VALUES_MAX} values are needed")
        if schema is True or schema == {}:
            return {}
        if not isinstance(schema, Mapping):
            raise NoInstance("a part of it is no object")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return _first(schema["enum"])
        if "$ref" in schema:
            return self.build(self._referred(schema["$ref"]))
        for keyword in ALTERNATIVES:
            if keyword in schema:
                return self.build(_first(schema[keyword]))
        return self._of_type(schema)

    def _referred(self, pointer: Any) -> Any:
        """The part of the document that a local reference names."""
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise NoInstance("a reference leads out of it")
        found = self._root
        for step in pointer.lstrip("#").split("/")[1:]:
            if not isinstance(found, Mapping) or step not in found:
                raise NoInstance(f"nothing is at {pointer}")
            found = found[step]
        return found

    def _of_type(self, schema: Mapping[str, Any]) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match _first(kind) if isinstance(kind, list) else kind:
            case "object":
                properties = schema.get("properties", {})
                return {name: self.build(properties.get(name, True)) for name in schema.get("required", [])}
            case "array":
                return [self.build(schema.get("items", True)) for _ in range(int(schema.get("minItems", 0)))]
            case "string":
                return "x" * min(int(schema.get("minLength", 0)), CHARACTERS_MAX)
            case "integer" | "number":
                return _number(schema)
            case "boolean":
                return False
            case "null":
                return None
        raise NoInstance(f"there is no type {kind!r}")


def _first(options: Any) -> Any:
    if not isinstance(options, list) or not options:
        raise NoInstance("a choice of nothing")
    return options[0]


def _number(schema: Mapping[str, Any]) -> Any:
    """The lowest number that is allowed, or 0."""
    if "exclusiveMinimum" in schema:
        return schema["exclusiveMinimum"] + 1
    return schema.get("minimum", min(0, schema.get("maximum", 0)))
