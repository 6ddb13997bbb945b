"""Digests: how two books say what they have, page by page. Plain lists of versions; no records, no clocks."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, takewhile

from meshwire.ids import NodeId

PREFIX_BYTES = 8
DIGEST_PAGE = 100

Version = tuple[bytes, int]
"""An owner, by the first bytes of its id, and the seq up to which all of its records are held."""


def around(ids: Sequence[NodeId], start: bytes) -> Iterator[NodeId]:
    """Sorted ids from `start` on, round the ring."""
    first = bisect_left(ids, start)
    yield from islice(ids, first, None)
    yield from islice(ids, first)


def beginning_with(ids: Sequence[NodeId], prefix: bytes) -> Iterator[NodeId]:
    """Those of the sorted ids that begin with a prefix; more than one if somebody took pains."""
    return takewhile(lambda one: one.startswith(prefix), islice(ids, bisect_left(ids, prefix), None))


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
