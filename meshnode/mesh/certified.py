"""Which certificates and revocations a book holds, by what they are about. It knows nothing of who may sign them."""

from dataclasses import dataclass, field

from meshnode.mesh.shelf import CERTIFYING, Slot
from meshwire.ids import NodeId
from meshwire.records import Record, RecordType


@dataclass(slots=True)
class Certified:
    """An index; other records pass it by. Its length counts those in it, `revoking` the revocations among them.

    `revision` grows with every change.
    """

    _by_slot: dict[Slot, dict[NodeId, Record]] = field(default_factory=dict)
    _count: int = 0
    revoking: int = 0
    revision: int = 0

    def put(self, record: Record) -> None:
        """Take a record in, whose place is empty."""
        if record.type in CERTIFYING:
            self._by_slot.setdefault((record.type, record.name), {})[record.owner] = record
            self._count += 1
            self.revision += 1
            self.revoking += record.type is RecordType.REVOCATION

    def take(self, record: Record) -> None:
        """Take a record out."""
        if record.type in CERTIFYING:
            slot = (record.type, record.name)
            del self._by_slot[slot][record.owner]
            if not self._by_slot[slot]:
                del self._by_slot[slot]
            self._count -= 1
            self.revision += 1
            self.revoking -= record.type is RecordType.REVOCATION

    def about(self, kind: RecordType, name: str) -> list[Record]:
        """The records of a type about something, whoever signed them."""
        return list(self._by_slot.get((kind, name), {}).values())

    def __len__(self) -> int:
        return self._count
