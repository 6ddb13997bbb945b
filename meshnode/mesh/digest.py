"""Digests: how two books say what they have, page by page. Plain lists of versions; no records, no clocks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

PREFIX_BYTES = 8
DIGEST_PAGE = 100

Version = tuple[bytes, int]
"""An owner, by the first bytes of its id, and the seq up to which all of its records are held."""


def page(versions: Mapping[bytes, int], start: bytes, limit: int) -> list[Version]:
    """Up to `limit` entries in the order of the ids, from `start` on, round the ring."""
    known = sorted((owner[:PREFIX_BYTES], version) for owner, version in versions.items())
    from_start = [entry for entry in known if entry[0] >= start]
    before = [entry for entry in known if entry[0] < start]
    return (from_start + before)[:limit]


def covers(digest: Sequence[Version], prefix: bytes) -> bool:
    """Whether a digest that does not name an owner says thereby that it has nothing of it.

    A page that is not full is all there is; a full one speaks for the ids from its first entry to its last.
    """
    if len(digest) < DIGEST_PAGE:
        return True
    first, last = digest[0][0], digest[-1][0]
    if first <= last:
        return first <= prefix <= last
    return prefix >= first or prefix <= last


def within(budget_bytes: int, raws: Iterable[bytes]) -> Iterator[bytes]:
    """The raw records up to the first that no longer fits."""
    for raw in raws:
        budget_bytes -= len(raw)
        if budget_bytes < 0:
            return
        yield raw
