"""Founding and joining meshes, and one's own role in them."""

import random

import pytest

from meshnode.errors import NotAllowed, WrongMesh
from meshnode.identity import create
from meshnode.terms import Trust
from meshnode.trust.certificates import issue_member
from meshnode.trust.membership import Mesh, found_closed, found_open, join_closed, join_open, require_issuer
from meshwire.errors import LocalWireError
from meshwire.ids import mesh_id
from meshwire.signing import Signer

RNG = random.Random(2)
ROOT = Signer(b"\x01" * 32)
FOUNDER, JOINER = create(RNG.randbytes), create(RNG.randbytes)
NOW = 1_700_000_000_000


def founded() -> Mesh:
    return found_closed(ROOT, FOUNDER, name="home", node_name="desk", serial=b"12345678", now_ms=NOW)


def joined(mesh: Mesh) -> Mesh:
    record = issue_member(
        FOUNDER.signer,
        mesh=mesh.id,
        key=JOINER.key,
        name="laptop",
        serial=b"87654321",
        seq=1,
        issued_ms=NOW,
        labels=(),
    )
    assert mesh.root_key is not None
    return join_closed(mesh.root_key, (record.raw, *mesh.chain), JOINER.key, name=mesh.name, now_ms=NOW)


def test_the_founder_is_a_trusted_issuer_of_its_mesh() -> None:
    mesh = founded()
    assert mesh.id == mesh_id(ROOT.public)
    assert mesh.role == "issuer"
    require_issuer(mesh)
    assert mesh.standing(mesh.chain, FOUNDER.key, NOW).trust is Trust.TRUSTED


def test_who_joins_is_a_member_to_all_and_no_issuer() -> None:
    mesh = joined(founded())
    assert mesh.role == "member"
    assert founded().standing(mesh.chain, JOINER.key, NOW).roles == ("member",)
    assert mesh.standing(founded().chain, FOUNDER.key, NOW).roles == ("issuer", "member")
    with pytest.raises(NotAllowed, match="device that founded"):
        require_issuer(mesh)


def test_a_chain_of_another_root_does_not_join() -> None:
    with pytest.raises(WrongMesh):
        join_closed(Signer(bytes(32)).public, founded().chain, FOUNDER.key, name="", now_ms=NOW)


def test_open_meshes_have_an_id_and_nothing_else() -> None:
    mesh = found_open(RNG.randbytes, name="fair")
    assert mesh.is_open
    assert mesh.role == ""
    assert mesh.chain == ()
    assert join_open(mesh.id).id == mesh.id
    assert mesh.standing((), JOINER.key, NOW).trust is Trust.MEMBER
    assert found_open(RNG.randbytes).id != mesh.id
    with pytest.raises(NotAllowed, match="ws://HOST:PORT"):
        require_issuer(mesh)
    with pytest.raises(LocalWireError):
        join_open(b"short")
