"""Scopes: nobody gets another's, whatever is written into a job."""

import itertools

import msgspec
import pytest

from meshnode.serve.scopes import SCOPE_BYTES, Scopes
from meshnode.terms import Job, Privacy, Wish

ORIGINS = (b"A" * 20, b"B" * 20, b"", b"A" * 19)
TAGS = (b"", b"x", b"xy", b"A" * 20, b"B" * 20, b"private")


def job(tag: bytes = b"", privacy: Privacy = Privacy.PRIVATE) -> Job:
    return Job(id="1", wish=Wish(privacy=privacy), turns=(), tenant_tag=tag)


def test_every_origin_tenant_and_class_has_a_scope_of_its_own() -> None:
    scopes = Scopes(b"secret")
    combinations = list(itertools.product(ORIGINS, TAGS, Privacy))
    found = {scopes.of(origin, job(tag, privacy)) for origin, tag, privacy in combinations}
    assert len(found) == len(combinations)
    assert {len(scope) for scope in found} == {SCOPE_BYTES}


def test_the_same_caller_gets_the_same_scope_for_every_request() -> None:
    scopes = Scopes(b"secret")
    later = msgspec.structs.replace(job(b"x"), id="2", deadline_ms=5)
    assert scopes.of(ORIGINS[0], job(b"x")) == scopes.of(ORIGINS[0], later)


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_tag_cannot_be_written_so_that_it_reads_as_part_of_another_origin(cut: int) -> None:
    victim = bytes(range(20))
    for privacy in Privacy:
        word = privacy.value.encode()
        target = Scopes(b"secret").of(victim, job(b"tenant", privacy))
        forged = Scopes(b"secret").of(victim[:cut], job(victim[cut:] + b"tenant", privacy))
        shifted = Scopes(b"secret").of(victim, job(b"tenant" + word[:cut], privacy))
        assert target not in (forged, shifted)


def test_a_tag_neither_names_the_tenant_nor_is_the_same_at_two_nodes() -> None:
    one, other = Scopes(b"secret"), Scopes(b"other secret")
    assert one.tag("") == b""
    assert one.tag("ann") == one.tag("ann") != one.tag("bob")
    assert one.tag("ann") != other.tag("ann")
    assert b"ann" not in one.tag("ann")
    assert len(one.tag("ann" * 1000)) == len(one.tag("x"))
    assert one.of(b"n", job()) != other.of(b"n", job())
