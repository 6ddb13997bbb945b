"""The cast of the plays: nodes that sign, and books that listen."""

from collections.abc import Iterable, Mapping
from typing import Any

from meshnode.mesh.book import NOTHING, Merged, RecordBook
from meshwire.ids import NodeId, node_id
from meshwire.records import Record, RecordType, make_record
from meshwire.signing import Signer

WALL_MS = 1_700_000_000_000
MINUTE_MS = 60_000


class Actor:
    """A node with a key, a book, and both clocks in its hand. All are members but the strangers."""

    def __init__(self, number: int, *, strangers: Iterable["Actor"] = (), issuers: bool = True) -> None:
        self.signer = Signer(number.to_bytes(32, "big"))
        self.node: NodeId = node_id(self.signer.public)
        self.strangers = {actor.signer.public for actor in strangers}
        self.book = RecordBook(
            self.node,
            is_member=lambda key: key not in self.strangers,
            is_issuer=lambda key: issuers and key not in self.strangers,
        )
        self.book.recalling = False
        self.now = 0.0
        self.wall_ms = WALL_MS

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.wall_ms += int(seconds * 1000)

    def publish(
        self, kind: RecordType = RecordType.NODE, name: str = "", ttl_ms: int = 15 * MINUTE_MS, **more: Any
    ) -> Record:
        payload: dict[int, Any] = {0: name} if name else {}
        payload[1] = more.get("content", "")
        return self.book.publish(
            self.signer, kind, payload, ttl_ms=ttl_ms, now=self.now, wall_ms=self.wall_ms
        )

    def sign(self, seq: int, kind: RecordType = RecordType.NODE, name: str = "", **more: Any) -> Record:
        payload: dict[int, Any] = {0: name} if name else {}
        payload[1] = more.get("content", "")
        return make_record(
            self.signer,
            kind,
            seq=seq,
            issued_ms=more.get("issued_ms", WALL_MS),
            ttl_ms=more.get("ttl_ms", 15 * MINUTE_MS),
            payload=payload,
        )

    def hear(
        self,
        *records: Record | bytes,
        sender: NodeId | None = None,
        in_order: bool = True,
        follows: Mapping[bytes, int] = NOTHING,
    ) -> Merged:
        raws = [record if isinstance(record, bytes) else record.raw for record in records]
        return self.book.merge(
            raws, now=self.now, wall_ms=self.wall_ms, sender=sender, in_order=in_order, follows=follows
        )

    def learn_from(self, other: "Actor", **more: Any) -> Merged:
        """One side of a gossip exchange."""
        deltas = other.book.deltas_for(self.book.digest(), now=other.now, **more)
        return self.hear(*deltas, sender=other.node)
