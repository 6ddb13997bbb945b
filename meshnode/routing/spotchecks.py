"""Does a peer answer with the weights that it claims? What spot checks have shown, and when that is enough. Pure.

For each peer and model a sequential probability ratio test (Wald, 1945) over the places that were drawn again: are
they missed as seldom as where the weights are the same, or as often as where they are others? Both shares are
measured (scripts/bench/spotchecks.py): of the same weights, with other batches, threads, kernels and temperatures, up
to 1 place in 100 is missed by more than a near tie; of a copy that differs in a quarter of its bytes, 9; of lower
quantisations of all of it, 24 and more.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from meshnode.routing.ledger import Key
from meshnode.seams import Rng
from meshnode.terms import Redrawn

NEAR_TIE = 0.2  # a miss up to this is rounding, which differs between machines and batches
MISSED_HONEST = 0.015  # of the places of an answer by the same weights, at most
MISSED_FOREIGN = 0.08  # of one by others, at least
FALSE_ALARM = 1e-9
OVERLOOKED = 1e-3
FOREIGN_AT = math.log((1 - OVERLOOKED) / FALSE_ALARM)
CLEARED_AT = math.log(OVERLOOKED / (1 - FALSE_ALARM))
BY_MISS = math.log(MISSED_FOREIGN / MISSED_HONEST)
BY_MATCH = math.log((1 - MISSED_FOREIGN) / (1 - MISSED_HONEST))
ANSWERS_LEAST = (
    4  # of them to be foreign: a text that goes in circles comes to the same near tie again and again
)
ANSWER_MOST = FOREIGN_AT / ANSWERS_LEAST
FLAGRANT_AMONG = (
    200  # the last answers: honest ones between do not make up for ANSWERS_LEAST that say all they can
)
PLACES = 32  # of one answer that are drawn again
PEERS_MAX = 1024
DISTRUSTED_MAX = 1024
DISTRUSTED_MS = 7 * 24 * 3600 * 1000  # then it may show again what it runs


class Verdict(StrEnum):
    """What is known of a peer's weights."""

    UNDECIDED = "undecided"
    CLEARED = "cleared"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class _Missed:
    """So many places of so many, in the last of so many answers."""

    answers: int = 0
    places: int = 0
    missed: int = 0

    def and_then(self, places: int, missed: int) -> "_Missed":
        return _Missed(self.answers + 1, self.places + places, self.missed + missed)


@dataclass(slots=True)
class _Record:
    """The test as it stands: `weight` is the logarithm of how much likelier it is foreign.

    `seen` is what it rests on, `checked` how many answers were checked at all, `flagrant` the numbers of those that
    said as much as one answer may, with what they missed.
    """

    weight: float = 0.0
    seen: _Missed = _Missed()
    checked: int = 0
    flagrant: tuple[tuple[int, _Missed], ...] = ()
    cleared: bool = False


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A peer has answered with other weights than those of `digest`: `missed` of `places` of so many answers.

    Until `until_ms` (Unix time) it is asked for these no more.
    """

    node: bytes
    digest: bytes
    answers: int
    places: int
    missed: int
    until_ms: int

    @property
    def told(self) -> str:
        """What was found, for a person."""
        return f"{self.missed} of {self.places} tokens in {self.answers} answers are not what these weights write"


class SpotChecks:
    """The tests of one node; `share` of the answers of those that are cleared is checked, of others all."""

    def __init__(self, rng: Rng, share: float) -> None:
        self._rng = rng
        self._share = share
        self._records: OrderedDict[Key, _Record] = OrderedDict()

    @property
    def on(self) -> bool:
        """Whether anything is checked at all."""
        return self._share > 0

    def wants(self, key: Key) -> bool:
        """Whether the answer that has just come is to be checked."""
        record = self._records.get(key)
        if not self.on or (record is not None and record.cleared):
            return self.on and self._rng.random() < self._share
        return True

    def note(self, key: Key, places: Sequence[Redrawn], now_ms: int) -> Finding | None:
        """One answer was drawn again; what it proves, if it proves that the weights are others."""
        record = self._records.pop(key, None) or _Record()
        while len(self._records) >= PEERS_MAX:
            self._records.popitem(last=False)
        self._records[key] = record
        missed = sum(place.miss > NEAR_TIE for place in places)
        weight = missed * BY_MISS + (len(places) - missed) * BY_MATCH
        record.checked += 1
        record.seen = record.seen.and_then(len(places), missed)
        record.weight += min(ANSWER_MOST, weight)
        if weight >= ANSWER_MOST:
            recent = [one for one in record.flagrant if one[0] > record.checked - FLAGRANT_AMONG]
            record.flagrant = (*recent, (record.checked, _Missed().and_then(len(places), missed)))
        return self._judge(key, record, now_ms)

    def verdict(self, key: Key) -> Verdict:
        """Whether it was cleared. Who is foreign is forgotten here, and stands with the distrusted."""
        record = self._records.get(key)
        return Verdict.CLEARED if record is not None and record.cleared else Verdict.UNDECIDED

    def _judge(self, key: Key, record: _Record, now_ms: int) -> Finding | None:
        if record.weight <= CLEARED_AT:  # and the test begins anew: it may exchange its weights later
            anew = _Record(checked=record.checked, flagrant=record.flagrant, cleared=True)
            self._records[key] = anew
        seen = record.seen
        if len(record.flagrant) >= ANSWERS_LEAST:
            for_all = [one for _, one in record.flagrant]
            seen = _Missed(
                len(for_all), sum(one.places for one in for_all), sum(one.missed for one in for_all)
            )
        elif record.weight < FOREIGN_AT:
            return None
        del self._records[key]
        return Finding(
            node=key[0],
            digest=key[1],
            answers=seen.answers,
            places=seen.places,
            missed=seen.missed,
            until_ms=now_ms + DISTRUSTED_MS,
        )


class Distrusted:
    """Who was found foreign, for which weights, and until when. `findings` are those of before."""

    def __init__(self, findings: Sequence[Finding] = ()) -> None:
        self._findings: OrderedDict[Key, Finding] = OrderedDict()
        for finding in findings[-DISTRUSTED_MAX:]:
            self._findings[finding.node, finding.digest] = finding

    def add(self, finding: Finding) -> None:
        """One more; the oldest goes where there are too many."""
        self._findings.pop((finding.node, finding.digest), None)
        while len(self._findings) >= DISTRUSTED_MAX:
            self._findings.popitem(last=False)
        self._findings[finding.node, finding.digest] = finding

    def holds(self, key: Key, now_ms: int) -> bool:
        """Whether a peer is not to be asked for these weights now."""
        finding = self._findings.get(key)
        return finding is not None and now_ms < finding.until_ms

    def findings(self, now_ms: int) -> tuple[Finding, ...]:
        """Those that hold now, the oldest first."""
        return tuple(finding for finding in self._findings.values() if now_ms < finding.until_ms)
