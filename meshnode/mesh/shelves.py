"""All shelves of a book, in the order of their owners' ids, and by the first bytes of these."""

from bisect import bisect_left, insort

from meshnode.mesh.shelf import Shelf
from meshwire.digests import PREFIX_BYTES
from meshwire.ids import NodeId


class Shelves(dict[NodeId, Shelf]):
    """Shelves by owner; put up and taken down by `make` and `drop` alone. `ids` are sorted.

    `versions` are what digests say, by prefix: the highest there is, should several ids begin so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[NodeId] = []
        self.versions: dict[bytes, int] = {}
        self._by_prefix: dict[bytes, list[Shelf]] = {}

    def make(self, owner: NodeId) -> Shelf:
        """A new shelf."""
        shelf = self[owner] = Shelf(owner)
        insort(self.ids, owner)
        self._by_prefix.setdefault(owner[:PREFIX_BYTES], []).append(shelf)
        return shelf

    def advance(self, shelf: Shelf, seq: int) -> None:
        """Everything of a shelf's owner up to this seq has come."""
        if seq > shelf.version:
            shelf.version = seq
            self._note_version(shelf.owner[:PREFIX_BYTES])

    def drop(self, owner: NodeId) -> None:
        """Take one down."""
        shelf, prefix = self.pop(owner), owner[:PREFIX_BYTES]
        del self.ids[bisect_left(self.ids, owner)]
        self._by_prefix[prefix].remove(shelf)
        self._note_version(prefix)
        if not self._by_prefix[prefix]:
            del self._by_prefix[prefix]

    def _note_version(self, prefix: bytes) -> None:
        self.versions[prefix] = max((shelf.version for shelf in self._by_prefix[prefix]), default=0)
        if not self.versions[prefix]:
            del self.versions[prefix]

    def at(self, prefix: bytes) -> list[Shelf]:
        """Those whose owners' ids begin so; more than one if somebody took pains."""
        return self._by_prefix.get(prefix, [])
