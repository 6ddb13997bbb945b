"""A node's vitals: its load, its neighbours, whether it takes work. And when they are worth signing again.

Signing costs every node in the mesh a verification, so it is rationed: by how much has moved, and by how many
nodes there are.
"""

from collections.abc import Collection
from typing import Annotated

import msgspec

from meshnode.terms import Openness
from meshwire.errors import RemoteWireError
from meshwire.fields import grown, pack_fields, unpack_fields
from meshwire.records import Record, RecordType

VITALS_TTL_MS = 60_000
REFRESH_S = 20.0
REFRESH_LATEST_S = 30.0
REFRESHES_PER_S = 33.0  # a mesh of n nodes signs the same again every n/33 s, between these two
FLOOR_S = 2.0
NODES_PER_S = 50.0  # a mesh of n nodes hears load changes of each no oftener than every n/50 s
STANDINGS_PER_S = (
    250.0  # and of who is linked with whom every n/250 s: ways that are gone cannot wait so long
)
MOVED = 0.2
NEARER = 0.8  # a neighbour has to be so much nearer to be named in the place of one that was named before
NEIGHBOURS_MAX = 16
AUDIT_LINE_KEY, AUDIT_HASH_KEY = 66, 67  # of the payload, for readers that do not know them ignore them

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Neighbour(msgspec.Struct, frozen=True):
    """A node with a live link, and the smoothed round trip on it in milliseconds."""

    node: Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
    rtt_ms: Annotated[float, msgspec.Meta(ge=0, le=60_000)]


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is.

    Queues are in tokens. `neighbours` are the best 16 by round trip. `ads_version` is the seq of its newest
    ad; `accepting` whether it takes others' work, and `admission` how much of it, as a number of Openness;
    `incarnation` grows each time it starts. `audit_line` and `audit_hash` are the head of its audit log, which others
    remember; 0 and empty before the first line.
    """

    in_flight: Count = 0
    slots: Count = 0
    queued_prefill: Count = 0
    queued_decode: Count = 0
    free_memory_bytes: Count = 0
    neighbours: Annotated[tuple[Neighbour, ...], msgspec.Meta(max_length=NEIGHBOURS_MAX)] = ()
    ads_version: Count = 0
    accepting: bool = True
    incarnation: Count = 0
    admission: Annotated[int, msgspec.Meta(ge=0, le=255), grown(64)] = 0
    audit_line: Annotated[int, msgspec.Meta(ge=0, le=2**53), grown(AUDIT_LINE_KEY)] = 0
    audit_hash: Annotated[bytes, msgspec.Meta(max_length=32), grown(AUDIT_HASH_KEY)] = b""

    @property
    def openness(self) -> Openness:
        """How much of others' work it takes; where its words differ, the less."""
        told = Openness(min(self.admission, Openness.PAUSED))
        return told if self.accepting else max(told, Openness.PAUSED_FOR_REMOTE)


def vitals_payload(vitals: Vitals) -> dict[int, object]:
    """The payload of a VITALS record."""
    return pack_fields(vitals)


def read_vitals(record: Record) -> Vitals:
    """The vitals in a record; raises RemoteWireError."""
    if record.type is not RecordType.VITALS:
        raise RemoteWireError(f"a {record.type.name} record where a VITALS record belongs")
    return unpack_fields(Vitals, record.payload)


def best_neighbours(rtts_ms: dict[bytes, float], named: Collection[bytes] = ()) -> tuple[Neighbour, ...]:
    """The neighbours to name: the nearest, ties by id so that equal facts make equal bytes.

    Those `named` before stay unless others are clearly nearer: two that are equally far must not take turns, each
    time for a signature.
    """
    ranked = sorted(
        rtts_ms.items(), key=lambda entry: (entry[1] * (NEARER if entry[0] in named else 1), entry[0])
    )
    ranked = sorted(ranked[:NEIGHBOURS_MAX], key=lambda entry: (entry[1], entry[0]))
    return tuple(Neighbour(node, round(rtt_ms, 1)) for node, rtt_ms in ranked[:NEIGHBOURS_MAX])


def should_resign(old: Vitals | None, new: Vitals, *, now: float, last_signed: float, mesh_size: int) -> bool:
    """Whether to sign new vitals now.

    Soon, after max(2 s, n/250 s), for what changes who can be asked: neighbours come or gone, ads, admission.
    A load that moved by more than a fifth, and a longer audit log, wait max(2 s, n/50 s). Round trips alone never
    cause a signature: they ride with the refresh, every 20 s, or n/33 s up to 30 s.
    """
    if old is None:
        return True
    age_s = now - last_signed
    if age_s >= min(max(REFRESH_S, mesh_size / REFRESHES_PER_S), REFRESH_LATEST_S):
        return True
    if age_s < max(FLOOR_S, mesh_size / STANDINGS_PER_S):
        return False
    if _standing(old) != _standing(new):
        return True
    return age_s >= mesh_size / NODES_PER_S and _moved(old, new)


def _standing(vitals: Vitals) -> tuple[object, ...]:
    neighbours = sorted(neighbour.node for neighbour in vitals.neighbours)
    return neighbours, vitals.ads_version, vitals.openness, vitals.incarnation, vitals.slots


def _moved(old: Vitals, new: Vitals) -> bool:
    pairs = (
        (old.in_flight, new.in_flight),
        (old.queued_prefill, new.queued_prefill),
        (old.queued_decode, new.queued_decode),
        (old.free_memory_bytes, new.free_memory_bytes),
    )
    return old.audit_line != new.audit_line or any(
        abs(was - now) > MOVED * max(was, now) for was, now in pairs
    )
