"""Records: one encoding only, verified before parsed, bounded, and open to growth."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwire import signing
from meshwire.errors import CloseCode, LocalWireError, RemoteWireError
from meshwire.ids import node_id
from meshwire.limits import RECORD_MAX
from meshwire.records import Record, RecordType, make_record, read_record

SIGNER = signing.Signer(b"\x05" * 32)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 200), inner, max_size=3),
    max_leaves=6,
)
PAYLOADS = st.dictionaries(st.integers(1, 200), VALUES, max_size=5)


def make(payload: dict[int, Any] | None = None, **changes: Any) -> Record:
    facts: dict[str, Any] = {"seq": 7, "issued_ms": 1000, "ttl_ms": 60_000} | changes
    return make_record(SIGNER, RecordType.MODEL, payload=payload or {}, **facts)


def envelope(body: bytes, *, version: Any = 1, key: Any = SIGNER.public, kind: Any = 2) -> bytes:
    """A record signed properly over whatever body is given."""
    signature = SIGNER.sign(signing.DOMAIN_RECORD, 2, body)
    raw: bytes = msgpack.packb([version, key, kind, body, signature])
    return raw


def body_of(
    payload: Any = None, *, key: Any = SIGNER.public, seq: Any = 7, issued: Any = 1, ttl: Any = 1
) -> bytes:
    body: bytes = msgpack.packb([key, seq, issued, ttl, {} if payload is None else payload])
    return body


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(PAYLOADS)
def test_round_trip(payload: dict[int, Any]) -> None:
    if depth(payload) > 6:
        return
    record = make(payload, seq=2**63 - 1)
    assert read_record(record.raw) == record
    assert record.payload == payload
    assert record.owner == node_id(SIGNER.public)
    assert len(record.raw) <= RECORD_MAX


def test_the_name_is_key_zero() -> None:
    assert make({0: "smollm2:135m", 1: 1}).name == "smollm2:135m"
    assert make({1: 1}).name == ""


@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    raw = bytearray(make({0: "n", 1: [1, 2.5, {1: b"x"}], 70: None}).raw)
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(RemoteWireError):
        read_record(bytes(raw))


@given(st.binary(max_size=1200))
def test_random_bytes_are_refused_politely(raw: bytes) -> None:
    with pytest.raises(RemoteWireError):
        read_record(raw)


@given(st.binary(max_size=300))
def test_a_signed_body_of_random_bytes_is_refused_politely(body: bytes) -> None:
    with pytest.raises(RemoteWireError):
        read_record(envelope(body))


def test_oversize_is_refused_before_anything_is_looked_at() -> None:
    def never(*_: object) -> None:
        raise AssertionError("verified an oversize record")

    raw = envelope(body_of({1: bytes(RECORD_MAX)}))
    with pytest.raises(RemoteWireError) as caught:
        read_record(raw, verify=never)
    assert caught.value.code is CloseCode.TOO_LARGE
    with pytest.raises(LocalWireError):
        make({1: bytes(RECORD_MAX)})


def test_verified_before_parsed() -> None:
    raw = bytearray(envelope(b"not msgpack at all \xc1"))
    raw[-1] ^= 1
    with pytest.raises(RemoteWireError) as caught:
        read_record(bytes(raw))
    assert caught.value.code is CloseCode.BAD_SIGNATURE


DOUBLED = b"\x82\x01\x01\x01\x02"  # {1: 1, 1: 2}
DESCENDING = b"\x82\x02\x01\x01\x01"  # {2: 1, 1: 1}
LONG_INT = b"\x81\x01\xcd\x00\x05"  # {1: 5} with 5 as u16
FLOAT32 = b"\x81\x01\xca\x3f\x80\x00\x00"
TIMESTAMP = b"\x81\x01\xd6\xff\x00\x00\x00\x00"
EXTENSION = b"\x81\x01\xd4\x05\x00"
BOOL_KEY = b"\x81\xc3\x01"
TEXT_KEY = b"\x81\xa1a\x01"
NEGATIVE_KEY = b"\x81\xff\x01"
ARRAY_KEY = b"\x81\x91\x01\x01"
BAD_UTF8 = b"\x81\x01\xa1\xff"
DEEP = b"\x81\x01" + b"\x91" * 8 + b"\x01"
BOMB = b"\x81\x01\xdd\xff\xff\xff\xff"
NAME_NOT_TEXT = b"\x81\x00\x05"
NOT_A_MAP = b"\x91\x01"


@pytest.mark.parametrize(
    "payload",
    [
        DOUBLED,
        DESCENDING,
        LONG_INT,
        FLOAT32,
        TIMESTAMP,
        EXTENSION,
        BOOL_KEY,
        TEXT_KEY,
        NEGATIVE_KEY,
        ARRAY_KEY,
        BAD_UTF8,
        DEEP,
        BOMB,
        NAME_NOT_TEXT,
        NOT_A_MAP,
    ],
)
def test_a_payload_that_is_not_canonical_is_refused_though_signed(payload: bytes) -> None:
    head = body_of()[:-1]
    assert read_record(envelope(head + b"\x81\x01\x05")).payload == {1: 5}
    with pytest.raises(RemoteWireError):
        read_record(envelope(head + payload))


@pytest.mark.parametrize(
    "raw",
    [
        envelope(body_of(), version=2),
        envelope(body_of(), version=True),
        envelope(body_of(), key=b"short"),
        envelope(body_of(), kind=99),
        envelope(body_of(), kind=True),
        envelope(body_of(key=bytes(32))),
        envelope(body_of(seq=-1)),
        envelope(body_of(seq=2**63)),
        envelope(body_of(seq=True)),
        envelope(body_of(seq=1.0)),
        envelope(body_of(issued=-1)),
        envelope(body_of(ttl="1")),
        envelope(body_of()) + b"\x00",
        envelope(body_of() + b"\x00"),
        envelope(msgpack.packb([SIGNER.public, 1, 1, 1])),
        msgpack.packb([1, SIGNER.public, 2, body_of()]),
    ],
)
def test_other_shapes_are_refused(raw: bytes) -> None:
    with pytest.raises(RemoteWireError):
        read_record(raw)


def test_keys_from_64_on_are_kept_to_the_byte() -> None:
    record = make({1: 1, 64: "grown", 100: [1, {70: b"x"}]})
    again = read_record(record.raw)
    assert again.raw == record.raw
    assert again.payload[64] == "grown"


def test_a_record_of_one_type_is_not_one_of_another() -> None:
    raw = make({1: 1}).raw
    changed = msgpack.unpackb(raw)
    changed[2] = int(RecordType.NODE)
    with pytest.raises(RemoteWireError) as caught:
        read_record(msgpack.packb(changed))
    assert caught.value.code is CloseCode.BAD_SIGNATURE


def test_keys_are_put_in_order_when_signing() -> None:
    assert make({2: {9: 1, 3: 1}, 1: 1}).raw == make({1: 1, 2: {3: 1, 9: 1}}).raw
