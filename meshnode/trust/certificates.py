"""Certificates: who may sign whom into a mesh, and what a chain of them proves at a moment. Pure.

The root signs issuer certificates, issuers sign member certificates; the root may sign a member's too. Each is a
CERTIFICATE record, so it can be gossiped like any other statement; its name is the subject's NodeId. A chain is what
the root has signed of a node, alone, or a member's certificate followed by its issuer's.

A node keeps its serial for as long as it is a member: a renewed certificate has that of the one before, so that one
revocation takes back all of them.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Annotated

import msgspec

from meshnode.errors import ClockSkew, MeshError, NotAllowed, Revoked, WrongMesh
from meshnode.terms import Trust
from meshwire import signing
from meshwire.errors import RemoteWireError
from meshwire.fields import grown, pack_fields, unpack_fields
from meshwire.ids import NodeId, mesh_id, node_id, to_text
from meshwire.limits import CLOCK_TOLERANCE_S
from meshwire.records import Record, RecordType, Verify, make_record, read_record

ROLE_ISSUER = "issuer"
ROLE_MEMBER = "member"
ROLE_ENDORSER = "endorser"
ROLES_OF_ROOT = frozenset({ROLE_ISSUER, ROLE_ENDORSER})  # which nobody else may give
LABEL_TRUSTED = "trusted"

SERIAL_BYTES = 8
DAY_MS = 24 * 3600 * 1000
ISSUER_LIFETIME_MS = 365 * DAY_MS
MEMBER_LIFETIME_MS = 30 * DAY_MS
CLOCK_TOLERANCE_MS = CLOCK_TOLERANCE_S * 1000
FOR_EVER_MS = 2**63 - 1
NAME_CHARACTERS_MAX = 64
WORDS_MAX = 16
WEIGHTS_MAX = 12  # a certificate that names so many still fits a record

Serial = Annotated[bytes, msgspec.Meta(min_length=SERIAL_BYTES, max_length=SERIAL_BYTES)]
MeshId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
Words = Annotated[tuple[Word, ...], msgspec.Meta(max_length=WORDS_MAX)]
UnixMs = Annotated[int, msgspec.Meta(ge=0, le=FOR_EVER_MS)]


class Certificate(msgspec.Struct, frozen=True):
    """What is certified: `key` belongs to `mesh` in these roles until `not_after_ms` (unix milliseconds).

    `name` is what people call the device; nothing rests on it. One that is `endorsed` may do sensitive work with the
    `weights` named, by their SHA-256, or with any if none is named.
    """

    serial: Serial
    mesh: MeshId
    key: Key
    roles: Words
    labels: Words = ()
    name: Annotated[str, msgspec.Meta(max_length=NAME_CHARACTERS_MAX)] = ""
    not_after_ms: UnixMs = 0
    endorsed: Annotated[bool, grown(64)] = False  # readers that know neither see a member
    weights: Annotated[tuple[Key, ...], msgspec.Meta(max_length=WEIGHTS_MAX), grown(65)] = ()


class Revocation(msgspec.Struct, frozen=True):
    """Takes certificates back, by serial; of no use after `not_after_ms`, when the last of them has expired."""

    serial: Serial
    mesh: MeshId
    not_after_ms: UnixMs


@dataclass(frozen=True, slots=True)
class Standing:
    """What a chain proves of a node until `not_after_ms`. `serials` are those of the chain, its own first.

    `trust` is what it is trusted with whatever weights it runs; `weights` are those with which it is endorsed, if it
    is not with all. `rank` orders what several chains say of one node: the root's word before an issuer's, an
    endorsement before none, and then the newest.
    """

    node: NodeId
    roles: tuple[str, ...]
    labels: tuple[str, ...]
    trust: Trust
    not_after_ms: int
    name: str = ""
    serials: tuple[bytes, ...] = ()
    weights: tuple[bytes, ...] = ()
    rank: tuple[bool, bool, int] = (False, False, 0)

    def trust_for(self, weights: bytes) -> Trust:
        """How far the node is trusted while it runs the weights with this SHA-256."""
        return max(self.trust, Trust.ENDORSED) if weights in self.weights else self.trust


def issue(signer: signing.Signer, certificate: Certificate, *, seq: int, issued_ms: int) -> Record:
    """Sign a certificate as it is, with the root's key or an issuer's; what that proves is for `verify_chain`."""
    return _sign(signer, certificate, seq=seq, issued_ms=issued_ms)


def issue_issuer(
    root: signing.Signer, *, key: bytes, name: str, serial: bytes, issued_ms: int, labels: tuple[str, ...]
) -> Record:
    """Certify `key` as an issuer (and member) for a year, with the mesh's root key."""
    certificate = Certificate(
        serial=serial,
        mesh=mesh_id(root.public),
        key=key,
        roles=(ROLE_ISSUER, ROLE_MEMBER),
        labels=labels,
        name=name[:NAME_CHARACTERS_MAX],
        not_after_ms=issued_ms + ISSUER_LIFETIME_MS,
    )
    return _sign(root, certificate, seq=issued_ms, issued_ms=issued_ms)


def issue_member(
    issuer: signing.Signer,
    *,
    mesh: bytes,
    key: bytes,
    name: str,
    serial: bytes,
    seq: int,
    issued_ms: int,
    labels: tuple[str, ...],
) -> Record:
    """Certify `key` as a member for 30 days, with an issuer's node key; `seq` is the next of that node's."""
    certificate = Certificate(
        serial=serial,
        mesh=mesh,
        key=key,
        roles=(ROLE_MEMBER,),
        labels=labels,
        name=name[:NAME_CHARACTERS_MAX],
        not_after_ms=issued_ms + MEMBER_LIFETIME_MS,
    )
    return _sign(issuer, certificate, seq=seq, issued_ms=issued_ms)


def revoke(signer: signing.Signer, certificate: Certificate, *, seq: int, issued_ms: int) -> Record:
    """Take a certificate back, with the root's or an issuer's key."""
    # A node apart from us may have had a newer one, with the same serial, from an issuer that has not heard of this.
    until_ms = max(certificate.not_after_ms, issued_ms + ISSUER_LIFETIME_MS)
    revocation = Revocation(certificate.serial, certificate.mesh, until_ms)
    return make_record(
        signer,
        RecordType.REVOCATION,
        seq=seq,
        issued_ms=issued_ms,
        # A certificate counts a little past its end, by clocks that may differ: so must what takes it back.
        ttl_ms=until_ms - issued_ms + 2 * CLOCK_TOLERANCE_MS,
        payload=pack_fields(revocation, name=certificate.serial.hex()),
    )


def certificate_of(record: Record) -> Certificate:
    """What a CERTIFICATE record says; raises RemoteWireError."""
    if record.type is not RecordType.CERTIFICATE:
        raise RemoteWireError("not a certificate")
    certificate = unpack_fields(Certificate, record.payload)
    if record.name != to_text(node_id(certificate.key)):
        raise RemoteWireError("a certificate under another node's name")
    return certificate


def revocation_of(record: Record) -> Revocation:
    """What a REVOCATION record says; raises RemoteWireError. Whether its signer may is for the caller."""
    if record.type is not RecordType.REVOCATION:
        raise RemoteWireError("not a revocation")
    revocation = unpack_fields(Revocation, record.payload)
    if record.name != revocation.serial.hex():
        raise RemoteWireError("a revocation under another serial's name")
    return revocation


def verify_chain(
    chain: tuple[bytes, ...],
    subject_key: bytes,
    root_key: bytes | None,
    now_ms: int,
    *,
    revoked: Container[bytes] = (),
    verify: Verify = signing.verify,
) -> Standing:
    """What the chain proves of `subject_key` under `root_key`; without a root (open mesh) all are members.

    `revoked` has the serials taken back. Raises WrongMesh, ClockSkew (a certificate from the future),
    Revoked, or NotAllowed for a chain that is missing, expired, or proves something else.
    """
    if root_key is None:
        return Standing(node_id(subject_key), (), (), Trust.MEMBER, FOR_EVER_MS)
    links = _read_chain(chain, verify)
    _check_signers(links, root_key)
    certificate = links[0][1]
    if certificate.key != subject_key:
        raise NotAllowed("The certificate belongs to another node.")
    for record, each in links:
        _check_times(record, each, now_ms)
        if each.serial in revoked:
            raise _revoked(each)
    endorsed = certificate.endorsed and _may_endorse(links)
    return Standing(
        node=node_id(subject_key),
        roles=certificate.roles,
        labels=certificate.labels,
        trust=_trust_of(certificate, endorsed=endorsed),
        not_after_ms=min(each.not_after_ms for _, each in links),
        name=certificate.name,
        serials=tuple(each.serial for _, each in links),
        weights=certificate.weights if endorsed else (),
        rank=(len(links) == 1, endorsed, links[0][0].issued_ms),
    )


def _trust_of(certificate: Certificate, *, endorsed: bool) -> Trust:
    if endorsed and not certificate.weights:
        return Trust.ENDORSED
    return Trust.TRUSTED if LABEL_TRUSTED in certificate.labels else Trust.MEMBER


def _may_endorse(links: list[tuple[Record, Certificate]]) -> bool:
    """Whether whoever signed the first may endorse: the root, or an issuer that the root allows it."""
    return len(links) == 1 or ROLE_ENDORSER in links[-1][1].roles


def _sign(signer: signing.Signer, certificate: Certificate, *, seq: int, issued_ms: int) -> Record:
    return make_record(
        signer,
        RecordType.CERTIFICATE,
        seq=seq,
        issued_ms=issued_ms,
        ttl_ms=certificate.not_after_ms - issued_ms,
        payload=pack_fields(certificate, name=to_text(node_id(certificate.key))),
    )


def _read_chain(chain: tuple[bytes, ...], verify: Verify) -> list[tuple[Record, Certificate]]:
    if not 1 <= len(chain) <= 2:
        raise NotAllowed(
            "There is no certificate for this mesh.",
            hint="Run `meshnode invite` on a device of the mesh, and `meshnode join` here with its ticket.",
        )
    try:
        records = [read_record(raw, verify) for raw in chain]
        return [(record, certificate_of(record)) for record in records]
    except RemoteWireError as error:
        raise NotAllowed(f"The certificate is damaged: {error}.") from error


def _check_signers(links: list[tuple[Record, Certificate]], root_key: bytes) -> None:
    """The last is the root's own statement; one before it is by an issuer, whom the last is about."""
    record, issuer = links[-1]
    if record.key != root_key or any(each.mesh != mesh_id(root_key) for _, each in links):
        raise WrongMesh("The certificate is for another mesh.", hint="Check which mesh the ticket is for.")
    if len(links) == 1:
        return
    if ROLE_ISSUER not in issuer.roles:
        raise NotAllowed("The certificate's signer is not an issuer of this mesh.")
    record, member = links[0]
    if record.key != issuer.key:
        raise NotAllowed("The certificate's signer is not the issuer shown with it.")
    if ROLES_OF_ROOT & set(member.roles):
        raise NotAllowed("Only the root may make issuers.")


def _check_times(record: Record, certificate: Certificate, now_ms: int) -> None:
    if record.issued_ms > now_ms + CLOCK_TOLERANCE_MS:
        raise ClockSkew(
            f"A certificate was issued {_minutes(record.issued_ms - now_ms)} in this clock's future.",
            hint="Set this machine's clock right (NTP), then try again.",
        )
    if now_ms > certificate.not_after_ms + CLOCK_TOLERANCE_MS:
        raise NotAllowed(
            f"The certificate of {certificate.name or to_text(node_id(certificate.key))} "
            f"expired {_minutes(now_ms - certificate.not_after_ms)} ago.",
            hint="Join again with a new ticket from `meshnode invite`.",
        )


def _revoked(certificate: Certificate) -> MeshError:
    return Revoked(
        f"The certificate {certificate.serial.hex()} has been revoked.",
        hint="Ask the mesh's owner; a new ticket lets this device in as a new one.",
    )


def _minutes(span_ms: int) -> str:
    minutes = span_ms // 60_000
    return f"{minutes} min" if minutes < 180 else f"{minutes // 60} h"
