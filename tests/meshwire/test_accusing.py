"""Accusations: good in one mesh, about one node's vitals, from one key."""

import msgspec
import pytest

from meshwire import signing
from meshwire.accusing import accuse, check
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId

MESH = bytes(range(16))
MADE = accuse(signing.Signer(bytes(32)), MESH, NodeId(bytes(20)), 5)


def test_what_was_signed_passes() -> None:
    check(MADE, MESH, signing.verify)


@pytest.mark.parametrize(
    "change",
    [{"seq": 6}, {"accused": bytes([1]) * 20}, {"accuser": signing.Signer(b"1" * 32).public}],
)
def test_what_was_changed_does_not(change: dict[str, object]) -> None:
    with pytest.raises(RemoteWireError):
        check(msgspec.structs.replace(MADE, **change), MESH, signing.verify)


def test_another_mesh_does_not_count() -> None:
    with pytest.raises(RemoteWireError):
        check(MADE, MESH[::-1], signing.verify)
