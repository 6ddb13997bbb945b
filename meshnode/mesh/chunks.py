"""Which chunk of a file to ask whom for: work that is shared out, taken back, and stolen near the end. Pure.

A peer promises a list of hashes. Lists that differ cannot all be right, and which are is known only once the whole
file's digest is: until then one list is followed, and a chunk is asked of those whose own list says the same of it.
So nobody is blamed for another's word: a peer is wrong if what it sends is not what it promised, or if what it
promised, every chunk of it, makes another file.
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meshwire.limits import BLOB_CHUNK_MIN, BLOB_CHUNKS_MAX

HASH_BYTES = 32
COPIES_MAX = 2  # of a chunk on its way at once, near the end


class ChunkList(NamedTuple):
    """A file as somebody promises it: its size, that of its chunks, and their SHA-256s in a row."""

    size_bytes: int
    chunk_bytes: int
    hashes: bytes

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return len(self.hashes) // HASH_BYTES

    @property
    def sound(self) -> bool:
        """Whether the figures fit each other."""
        expected = chunk_bytes_for(self.size_bytes)
        return (
            self.size_bytes > 0
            and self.chunk_bytes == expected
            and len(self.hashes) == HASH_BYTES * -(-self.size_bytes // expected)
        )

    def hash_of(self, index: int) -> bytes:
        """What it says of one chunk."""
        return self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def span(self, index: int) -> tuple[int, int]:
        """Where a chunk begins, and its length in bytes."""
        begin = index * self.chunk_bytes
        return begin, min(self.chunk_bytes, self.size_bytes - begin)

    def agrees(self, other: "ChunkList", index: int) -> bool:
        """Whether both say the same of a chunk."""
        return self.size_bytes == other.size_bytes and self.hash_of(index) == other.hash_of(index)


def chunk_bytes_for(size_bytes: int) -> int:
    """The one size that the chunks of a file of this size have: BLOB_CHUNK_MIN, doubled until they are few enough."""
    chunk = BLOB_CHUNK_MIN
    while size_bytes > chunk * BLOB_CHUNKS_MAX:
        chunk *= 2
    return chunk


def preferred(promises: Mapping[str, ChunkList]) -> ChunkList | None:
    """The list to follow: that of most peers, and of equals the one of the smaller file; None without any."""
    votes: dict[ChunkList, int] = {}
    for promise in promises.values():
        votes[promise] = votes.get(promise, 0) + 1
    return min(votes, key=lambda one: (-votes[one], one.size_bytes, one.hashes), default=None)


class Sharing:
    """The work on one list. Peers are known by any name that is theirs alone."""

    def __init__(self, wanted: ChunkList, held: Iterable[int] = ()) -> None:
        self.wanted = wanted
        self.held = set(held)
        self.held_bytes = sum(wanted.span(index)[1] for index in self.held)
        self._left = [index for index in range(wanted.chunks - 1, -1, -1) if index not in self.held]
        self._out: dict[int, dict[str, float]] = {}  # who was asked for a chunk, and when

    @property
    def done(self) -> bool:
        """Whether every chunk is here."""
        return len(self.held) == self.wanted.chunks

    def next(self, peer: str, promise: ChunkList, now: float) -> int | None:
        """What to ask this peer for now; None if there is nothing that it could give.

        The first chunk that nobody was asked for; when there is none, one that another peer has been at for
        longest, so that the slowest does not hold up the end.
        """
        at = self._untouched(promise)
        index = self._slowest(peer, promise) if at is None else self._left.pop(at)
        if index is not None:
            self._out.setdefault(index, {})[peer] = now
        return index

    def has_work(self, peer: str, promise: ChunkList) -> bool:
        """Whether `next` would give this peer anything."""
        return self._untouched(promise) is not None or self._slowest(peer, promise) is not None

    def hopeless(self, promises: Iterable[ChunkList]) -> bool:
        """Whether nothing is on its way, and none of these promises anything that is missing."""
        if self._out:
            return False
        return not any(self.wanted.agrees(one, index) for one in promises for index in self._left)

    def came(self, index: int) -> None:
        """A chunk is here, and right."""
        self._out.pop(index, None)
        if index not in self.held:
            self.held.add(index)
            self.held_bytes += self.wanted.span(index)[1]

    def failed(self, peer: str, index: int) -> None:
        """A peer did not give what it was asked for; nothing to be done if another brought it meanwhile."""
        asked = self._out.get(index)
        if asked is None or asked.pop(peer, None) is None:
            return
        if not asked:
            del self._out[index]
            insort(self._left, index, key=lambda one: -one)

    def _untouched(self, promise: ChunkList) -> int | None:
        """Where among those left is the first that this promise is right about."""
        places = range(len(self._left) - 1, -1, -1)
        return next((at for at in places if self.wanted.agrees(promise, self._left[at])), None)

    def _slowest(self, peer: str, promise: ChunkList) -> int | None:
        out = [
            (min(asked.values()), index)
            for index, asked in self._out.items()
            if peer not in asked and len(asked) < COPIES_MAX and self.wanted.agrees(promise, index)
        ]
        return min(out)[1] if out else None
