"""Signed, sequenced, expiring records: what a node says about itself, true after any number of relays.

It knows the envelope, not what payloads mean. Envelope = msgpack [1, public key, type, body, signature],
body = msgpack [public key, seq, issued_ms, ttl_ms, payload]; the signature covers the exact bytes of the body
under DOMAIN_RECORD and the type. Every record has one encoding only, so equal content means equal bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack

from meshwire import signing
from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.ids import NodeId, node_id
from meshwire.limits import ARRAY_MAX, DEPTH_MAX, MAP_MAX, RECORD_MAX

ENVELOPE_VERSION = 1
INTEGER_MAX = 2**63 - 1

Verify = Callable[[bytes, bytes, int | bytes, bytes, bytes], None]
Read = Callable[[bytes], "Record"]


class RecordType(IntEnum):
    """What a record is about. The numbers are fixed."""

    NODE = 1
    MODEL = 2
    VITALS = 3
    CERTIFICATE = 4
    REVOCATION = 5
    TOMBSTONE = 6


@dataclass(frozen=True, slots=True)
class Record:
    """A verified record.

    `raw` is the exact envelope, to be passed on unchanged; `issued_ms` is unix milliseconds by the owner's
    clock; `ttl_ms` counts from there; `payload` has integer keys, 0 being the name, and must not be changed.
    """

    raw: bytes
    key: bytes
    type: RecordType
    seq: int
    issued_ms: int
    ttl_ms: int
    payload: Mapping[int, Any]

    @property
    def owner(self) -> NodeId:
        """The id of the node that signed it."""
        return node_id(self.key)

    @property
    def name(self) -> str:
        """Which of its owner's records of this type it is; empty where there is only one."""
        name: str = self.payload.get(0, "")
        return name


def make_record(
    signer: signing.Signer,
    kind: RecordType,
    *,
    seq: int,
    issued_ms: int,
    ttl_ms: int,
    payload: Mapping[int, Any],
) -> Record:
    """Sign a record; raises LocalWireError if it would not be accepted by `read_record`."""
    ordered = _sorted(payload)
    body = msgpack.packb([signer.public, seq, issued_ms, ttl_ms, ordered])
    signature = signer.sign(signing.DOMAIN_RECORD, kind, body)
    raw: bytes = msgpack.packb([ENVELOPE_VERSION, signer.public, int(kind), body, signature])
    try:
        return _parse(_Envelope(raw, signer.public, kind, body))
    except RemoteWireError as error:
        raise LocalWireError(f"this record cannot be sent: {error}") from error


def read_record(raw: bytes, verify: Verify = signing.verify) -> Record:
    """The record in these bytes: bounded, then verified, then parsed; raises RemoteWireError.

    `verify` has the signature of `signing.verify`; another one may remember what it has verified already.
    """
    envelope, signature = _open(raw)
    verify(envelope.key, signing.DOMAIN_RECORD, envelope.type, envelope.body, signature)
    return _parse(envelope)


@dataclass(frozen=True, slots=True)
class _Envelope:
    raw: bytes
    key: bytes
    type: RecordType
    body: bytes


def _open(raw: bytes) -> tuple[_Envelope, bytes]:
    """Envelope and signature, with nothing verified yet and the body not looked into."""
    if len(raw) > RECORD_MAX:
        raise RemoteWireError(f"a record of {len(raw)} bytes", CloseCode.TOO_LARGE)
    match _unpack(raw):
        case [int(version), bytes(key), int(kind), bytes(body), bytes(signature)]:
            pass
        case _:
            raise RemoteWireError("a record's envelope has another shape")
    if type(version) is not int or version != ENVELOPE_VERSION:
        raise RemoteWireError(f"a record of version {version}", CloseCode.WRONG_VERSION)
    return _Envelope(raw, key, _type(kind), body), signature


def _parse(envelope: _Envelope) -> Record:
    if len(envelope.raw) > RECORD_MAX:
        raise RemoteWireError(f"a record of {len(envelope.raw)} bytes", CloseCode.TOO_LARGE)
    match _unpack(envelope.body):
        case [bytes(key), int(seq), int(issued_ms), int(ttl_ms), dict(payload)]:
            pass
        case _:
            raise RemoteWireError("a record's body has another shape")
    if key != envelope.key:
        raise RemoteWireError("a record's body names another key than its envelope")
    if not all(type(n) is int and 0 <= n <= INTEGER_MAX for n in (seq, issued_ms, ttl_ms)):
        raise RemoteWireError("a record's seq, issued or ttl is out of range")
    if not isinstance(payload.get(0, ""), str):
        raise RemoteWireError("a record's name is not text")
    return Record(envelope.raw, key, envelope.type, seq, issued_ms, ttl_ms, payload)


def _type(kind: int) -> RecordType:
    try:
        return RecordType(kind)
    except ValueError as error:
        raise RemoteWireError(f"a record of unknown type {kind}") from error


def _unpack(packed: bytes) -> Any:
    """The one value in these bytes, if they are its canonical encoding."""
    try:
        value = msgpack.unpackb(
            packed,
            strict_map_key=False,
            max_array_len=ARRAY_MAX,
            max_map_len=MAP_MAX,
        )
    # TypeError: a map or an array as a map's key.
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RemoteWireError("bytes that are not msgpack within bounds") from error
    _check(value, DEPTH_MAX)
    if msgpack.packb(value) != packed:
        raise RemoteWireError("an encoding that is not canonical")
    return value


def _check(value: Any, depth: int) -> None:
    """Refuse extension types, map keys that are not ascending integers, and deep nesting."""
    if isinstance(value, dict | list) and depth == 0:
        raise RemoteWireError("nested too deep")
    match value:
        case dict():
            _check_keys(list(value))
            for item in value.values():
                _check(item, depth - 1)
        case list():
            for item in value:
                _check(item, depth - 1)
        case None | bool() | int() | float() | str() | bytes():
            pass
        case _:
            raise RemoteWireError(f"a value of type {type(value).__name__}")


def _check_keys(keys: list[Any]) -> None:
    if not all(type(key) is int and key >= 0 for key in keys) or keys != sorted(keys):
        raise RemoteWireError("map keys that are not ascending small integers")


def _sorted(value: Any) -> Any:
    """The value with every map's keys in ascending order."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value
