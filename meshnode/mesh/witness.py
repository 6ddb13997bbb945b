"""What this node remembers of others' audit logs: the vitals in which each named its longest log. Pure.

A node cannot cut its own log without contradicting what it has signed before others. It decides nothing about whose
word counts, and knows no log.
"""

from meshnode.mesh.vitals import AUDIT_HASH_KEY, AUDIT_LINE_KEY
from meshnode.trust.audit import HASH_BYTES, Point
from meshwire.ids import NodeId
from meshwire.records import Record, RecordType

WITNESSED_MAX = 1024  # nodes; of more, those heard of first are forgotten
RECORD_NAME = "audit"  # under which one asks another for the vitals that it remembers


def head_in(record: Record) -> Point | None:
    """The head of its owner's audit log that a VITALS record names; None if it names none."""
    line, digest = record.payload.get(AUDIT_LINE_KEY), record.payload.get(AUDIT_HASH_KEY)
    named = isinstance(line, int) and isinstance(digest, bytes) and len(digest) == HASH_BYTES
    return Point(line, digest) if named and record.type is RecordType.VITALS else None  # type: ignore[arg-type]


class Witness:
    """One node's memory of the others' heads."""

    def __init__(self) -> None:
        self._held: dict[NodeId, tuple[Point, Record]] = {}
        self._unkept: dict[NodeId, None] = {}

    def saw(self, record: Record) -> bool:
        """Remember what vitals say, if it is more than before; False if the log has become shorter, or another."""
        point = head_in(record)
        if point is None or point.n == 0:
            return True
        before, _ = self._held.get(record.owner, (Point(), record))
        if point.n > before.n:
            if record.owner not in self._held and len(self._held) >= WITNESSED_MAX:
                self._held.pop(next(iter(self._held)))
            self._held[record.owner] = point, record
            self._unkept[record.owner] = None
        return point.n > before.n or point == before

    def raw(self, owner: bytes) -> tuple[bytes, ...]:
        """The vitals in which a node named its longest log, as they came; empty if it never did."""
        held = self._held.get(NodeId(owner))
        return (held[1].raw,) if held is not None else ()

    def all(self) -> list[Record]:
        """Those of every node."""
        return [record for _, record in self._held.values()]

    def take_unkept(self) -> list[Record]:
        """What was remembered since the last call, to be kept on a disk."""
        found = [self._held[owner][1] for owner in self._unkept if owner in self._held]
        self._unkept.clear()
        return found
