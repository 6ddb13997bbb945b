"""The ads of nodes in a book, each read once however often it is looked at."""

from meshnode.mesh.ads import NodeAd, read_node_ad
from meshnode.mesh.book import RecordBook
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId
from meshwire.records import RecordType


class NodeAds:
    """What nodes say of themselves now."""

    def __init__(self, book: RecordBook) -> None:
        self._book = book
        self._read: dict[NodeId, tuple[bytes, NodeAd | None]] = {}

    def get(self, node: NodeId) -> NodeAd | None:
        """A node's current ad; None if there is none that makes sense."""
        record = self._book.get(node, RecordType.NODE)
        if record is None:
            self._read.pop(node, None)
            return None
        raw, ad = self._read.get(node, (b"", None))
        if raw is not record.raw:
            try:
                ad = read_node_ad(record)
            except RemoteWireError:
                ad = None
            self._read[node] = (record.raw, ad)
        return ad
