"""Structs as maps with small integer keys, the shape of every message and record payload.

It knows types, not meanings. A field's key is its 1-based position in the struct, so fields may be appended
but never moved. Key 0 belongs to the envelope (a record's name). Keys below 64 are known or refused; keys
from 64 on are for growth: who does not know them ignores them. A field that came later than its struct is
annotated with such a key (`grown`), and stands after those that were there from the start.
"""

import math
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from meshwire.errors import LocalWireError, RemoteWireError
from meshwire.limits import KNOWN_KEYS

NAME_KEY = 0
GROWN = "key"
_BARE = frozenset({bytes, str, int, float, bool, type(None)})  # what msgpack takes as it is

S = TypeVar("S", bound=msgspec.Struct)
Rename = Callable[[Any], Any]
Plan = dict[int, tuple[str, Rename | None]]


def grown(key: int) -> msgspec.Meta:
    """The annotation of a field that older readers shall ignore; keys are never used for another field again."""
    if key < KNOWN_KEYS:
        raise LocalWireError(f"key {key} is below {KNOWN_KEYS}, so older readers would refuse it")
    return msgspec.Meta(extra={GROWN: key})


def pack_fields(struct: msgspec.Struct, *, name: str = "") -> dict[int, Any]:
    """The struct as plain data keyed by field position, keys ascending.

    Fields that hold their default are left out. `name` goes to key 0 when it is not empty.
    """
    fields: dict[int, Any] = {NAME_KEY: name} if name else {}
    for key, field, kind, default in _written(type(struct)):
        value = getattr(struct, field)
        if type(value) is not kind or value != default:
            fields[key] = value if type(value) in _BARE else _plain(value)
    return fields


def unpack_fields(cls: type[S], fields: Mapping[int, Any]) -> S:
    """The struct that `fields` describe; raises RemoteWireError for anything not of its types."""
    try:
        return msgspec.convert(_by_name(cls, fields), cls, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise RemoteWireError(f"{cls.__name__}: {error}") from error


@lru_cache(maxsize=256)
def _fields_of(cls: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The fields in order; a struct with more than there are known keys cannot travel."""
    fields = msgspec.structs.fields(cls)
    if len(fields) >= KNOWN_KEYS:
        raise LocalWireError(f"{cls.__name__} has more than {KNOWN_KEYS - 1} fields")
    return fields


@lru_cache(maxsize=256)
def _keyed(cls: type[msgspec.Struct]) -> tuple[tuple[int, msgspec.structs.FieldInfo], ...]:
    """The fields with their keys, which ascend."""
    keyed = tuple((_grown_key(field) or at, field) for at, field in enumerate(_fields_of(cls), start=1))
    keys = [key for key, _ in keyed]
    if keys != sorted(set(keys)):
        raise LocalWireError(f"the keys of {cls.__name__} do not ascend")
    return keyed


def _grown_key(field: msgspec.structs.FieldInfo) -> int:
    metas = [one for one in getattr(field.type, "__metadata__", ()) if isinstance(one, msgspec.Meta)]
    return next((int(one.extra[GROWN]) for one in metas if one.extra and GROWN in one.extra), 0)


@lru_cache(maxsize=256)
def _written(cls: type[msgspec.Struct]) -> tuple[tuple[int, str, type | None, Any], ...]:
    """For each field its key, its name, and the type and value of its default; no type where there is none."""
    return tuple(
        (key, field.name, None if field.default is msgspec.NODEFAULT else type(field.default), field.default)
        for key, field in _keyed(cls)
    )


def _plain(value: Any) -> Any:
    """The value in msgpack's own types."""
    if isinstance(value, msgspec.Struct):
        return pack_fields(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _by_name(cls: type[msgspec.Struct], fields: Any) -> dict[str, Any]:
    """The map with field names for keys, nested structs too."""
    if type(fields) is not dict and not isinstance(fields, Mapping):
        raise RemoteWireError(f"{cls.__name__} is not a map")
    plan = _plan(cls)
    named: dict[str, Any] = {}
    for key, value in fields.items():
        if type(key) is not int or key < 0:
            raise RemoteWireError(f"{cls.__name__}: a key is not a small integer")
        if key in plan:
            name, rename = plan[key]
            named[name] = value if rename is None else rename(value)
        elif NAME_KEY < key < KNOWN_KEYS:
            raise RemoteWireError(f"{cls.__name__}: unknown field {key}")
    return named


@lru_cache(maxsize=256)
def _plan(cls: type[msgspec.Struct]) -> Plan:
    """How each key of the class is read."""
    hints = get_type_hints(cls)
    return {key: (field.name, _rename_for(hints[field.name])) for key, field in _keyed(cls)}


def _rename_for(kind: Any) -> Rename | None:
    """How a value of this type is read: nested structs get names, the rest is left for msgspec to check.

    A struct may stand alone, be optional, or fill a tuple; deeper nestings are not used on the wire. None where
    no float could pass.
    """
    nested = next((inner for inner in (kind, *get_args(kind)) if _is_struct(inner)), None)
    if nested is None:
        return _finite if _holds_floats(kind) else None
    return lambda value: _nested_by_name(nested, value)


def _holds_floats(kind: Any) -> bool:
    return kind in (float, Any, object) or any(map(_holds_floats, get_args(kind)))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _nested_by_name(cls: type[msgspec.Struct], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_by_name(cls, item) for item in value]
    return None if value is None else _by_name(cls, value)


def _finite(value: Any) -> Any:
    """The value, unless it is or holds a float that no comparison can order."""
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise RemoteWireError("a number is not finite")
    return value
