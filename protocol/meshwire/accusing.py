"""Accusations: what a watcher signs when it no longer hears a node. It knows no watchers, members or clocks."""

from struct import pack

from meshwire.ids import NodeId
from meshwire.messages import Accuse
from meshwire.records import Verify
from meshwire.signing import DOMAIN_ACCUSE, Signer


def accuse(signer: Signer, mesh: bytes, accused: NodeId, seq: int) -> Accuse:
    """A signed accusation, good in one mesh and against vitals of this seq only."""
    signature = signer.sign(DOMAIN_ACCUSE, mesh, _body(accused, seq))
    return Accuse(accused, seq, signer.public, signature)


def check(accusation: Accuse, mesh: bytes, verify: Verify) -> None:
    """Return if its accuser signed it for this mesh; raises RemoteWireError(BAD_SIGNATURE)."""
    body = _body(accusation.accused, accusation.seq)
    verify(accusation.accuser, DOMAIN_ACCUSE, mesh, body, accusation.signature)


def _body(accused: bytes, seq: int) -> bytes:
    return accused + pack(">Q", seq)
