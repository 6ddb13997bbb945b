"""What this node has sent to others that their queue figures cannot show yet: old news makes herds.

A request counts from when it is sent until its node speaks of its queue again, or until it ends. It asks nobody.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from meshnode.terms import Candidate

SENT_MAX = 4096
SENT_MEMORY_S = 120.0

Key = tuple[bytes, bytes]
"""A node and the digest of the weights that it runs."""


def key_of(candidate: Candidate) -> Key:
    """What tells a candidate from all others."""
    return candidate.node, candidate.card.digest


@dataclass(frozen=True, slots=True)
class Sent:
    """Requests, their prompt tokens and the answer tokens expected of them."""

    requests: int = 0
    prefill: int = 0
    decode: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Key
    at: float
    vitals_seq: int
    prefill: int
    decode: int


class SentLedger:
    """The requests under way, each under its id; the oldest go where there are too many."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._by_key: dict[Key, dict[str, _Entry]] = {}

    def note(self, request: str, key: Key, *, prefill: int, decode: int, vitals_seq: int, now: float) -> None:
        """A request went out when the node's vitals were at this seq."""
        self.ended(request)
        while self._entries and (len(self._entries) >= SENT_MAX or self._oldest_at() < now - SENT_MEMORY_S):
            self.ended(next(iter(self._entries)))
        self._entries[request] = entry = _Entry(key, now, vitals_seq, prefill, decode)
        self._by_key.setdefault(key, {})[request] = entry

    def _oldest_at(self) -> float:
        return next(iter(self._entries.values())).at

    def ended(self, request: str) -> None:
        """It is over there, in whatever way."""
        entry = self._entries.pop(request, None)
        if entry is not None:
            same = self._by_key[entry.key]
            del same[request]
            if not same:
                del self._by_key[entry.key]

    def since(self, key: Key, vitals_seqs: Mapping[bytes, int], heard_at: float, now: float) -> Sent:
        """What went there since its vitals were signed, and since `heard_at`, when it last told its queue itself."""
        seq, after = vitals_seqs.get(key[0], 0), max(heard_at, now - SENT_MEMORY_S)
        fresh = [
            one for one in self._by_key.get(key, {}).values() if one.vitals_seq >= seq and one.at > after
        ]
        return Sent(len(fresh), sum(one.prefill for one in fresh), sum(one.decode for one in fresh))
