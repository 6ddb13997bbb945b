"""What is remembered of others' audit logs: the longest, in the words of whom it is about."""

import random

import pytest

from meshnode.mesh import witness as witness_module
from meshnode.mesh.vitals import Neighbour, Vitals, read_vitals, should_resign, vitals_payload
from meshnode.mesh.witness import Witness, head_in
from meshnode.trust.audit import Point
from meshwire.fields import pack_fields
from meshwire.limits import RECORD_MAX
from meshwire.records import Record, RecordType, make_record
from meshwire.signing import Signer

A, B = Signer(b"\x01" * 32), Signer(b"\x02" * 32)
RNG = random.Random(3)


def vitals(line: int, *, by: Signer = A, digest: bytes = b"") -> Record:
    said = Vitals(audit_line=line, audit_hash=digest or bytes([line % 256]) * 32 if line else b"")
    return signed(vitals_payload(said), by)


def signed(payload: dict[int, object], by: Signer = A, kind: RecordType = RecordType.VITALS) -> Record:
    return make_record(by, kind, seq=RNG.randrange(1 << 40), issued_ms=1, ttl_ms=1, payload=payload)


def test_a_head_travels_in_vitals_under_keys_that_old_readers_ignore() -> None:
    record = vitals(5)
    assert set(record.payload) == {66, 67}
    assert head_in(record) == Point(5, b"\x05" * 32)
    assert read_vitals(record).audit_line == 5


def test_full_vitals_with_a_head_still_fit_a_record() -> None:
    count = 2**53
    full = Vitals(
        in_flight=count,
        slots=count,
        queued_prefill=count,
        queued_decode=count,
        free_memory_bytes=count,
        neighbours=tuple(Neighbour(bytes([n]) * 20, 1234.5) for n in range(16)),
        ads_version=count,
        accepting=False,
        incarnation=count,
        audit_line=count,
        audit_hash=bytes(32),
    )
    assert len(signed(vitals_payload(full)).raw) <= RECORD_MAX


def test_a_longer_log_is_signed_again_like_a_load_that_moved() -> None:
    old, new = Vitals(audit_line=1), Vitals(audit_line=2)
    assert should_resign(old, new, now=3.0, last_signed=0.0, mesh_size=10)
    assert not should_resign(old, new, now=1.0, last_signed=0.0, mesh_size=10)
    assert not should_resign(old, old, now=3.0, last_signed=0.0, mesh_size=10)


@pytest.mark.parametrize(
    "payload", [{}, {66: 1}, {67: bytes(32)}, {66: "1", 67: bytes(32)}, {66: 1, 67: b"x"}]
)
def test_vitals_that_name_no_head_are_no_news(payload: dict[int, object]) -> None:
    witness = Witness()
    assert head_in(signed(payload)) is None
    assert witness.saw(signed(payload))
    assert witness.all() == []


def test_only_a_longer_log_takes_the_place_of_the_last() -> None:
    witness = Witness()
    longest = vitals(7)
    assert witness.saw(vitals(3))
    assert witness.saw(longest)
    assert not witness.saw(vitals(6))
    assert not witness.saw(vitals(7, digest=b"?" * 32))
    assert witness.saw(vitals(7))
    assert witness.raw(longest.owner) == (longest.raw,)
    assert witness.raw(bytes(20)) == ()
    other = vitals(1, by=B)
    assert witness.saw(other)
    assert witness.take_unkept() == [longest, other]
    assert witness.take_unkept() == []


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness_module, "WITNESSED_MAX", 3)
    witness = Witness()
    owners = [vitals(1, by=Signer(bytes([n]) * 32)) for n in range(1, 6)]
    for record in owners:
        witness.saw(record)
    assert witness.all() == owners[2:]
    assert pack_fields(Vitals()) == {}
