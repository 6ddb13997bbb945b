"""Digests: how two books say what they have, page by page. Plain lists of versions; no records, no clocks."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from meshwire.digests import PREFIX_BYTES, Version
from meshwire.ids import NodeId

DIGEST_PAGE = 100


def around(ids: Sequence[NodeId], start: bytes) -> Iterator[NodeId]:
    """Sorted ids from `start` on, round the ring."""
    first = bisect_left(ids, start)
    yield from islice(ids, first, None)
    yield from islice(ids, first)


def covered(ids: Sequence[NodeId], digest: Sequence[Version]) -> Iterator[NodeId]:
    """Those of the sorted ids of which a digest that does not name them says thereby that it has nothing.

    A page that is not full is all there is; a full one speaks for the ids from its first entry to its last.
    """
    if len(digest) < DIGEST_PAGE:
        return iter(ids)
    first, last = digest[0][0], digest[-1][0]
    begin, end = bisect_left(ids, first), bisect_right(ids, last, key=lambda one: one[:PREFIX_BYTES])
    if first <= last:
        return islice(ids, begin, end)
    return chain(islice(ids, begin, None), islice(ids, end))


def within(budget_bytes: int, raws: Iterable[bytes]) -> Iterator[bytes]:
    """The raw records up to the first that no longer fits."""
    for raw in raws:
        budget_bytes -= len(raw)
        if budget_bytes < 0:
            return
        yield raw
