"""How fast peers turned out to be, as this node saw it: a bounded record that outweighs what they advertise.

Speeds are kept as those of one sequence alone, so that they compare with an ad. Each observation moves them by a
part, in proportion rather than by difference, and what is old counts less: a peer that got better must be able to
show it. It knows no links and no clocks.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

from meshnode.routing.ledger import Key
from meshnode.routing.score import GENERATE_TPS_UNKNOWN, PROMPT_TPS_UNKNOWN
from meshnode.terms import ModelCard

MEASURED_MAX = 1024
FADES_S = 300.0  # after so long, what was seen counts 1/e of what it did
PROVEN_S = 60.0  # and so long it counts as seen lately
PART = 0.5  # how far one observation moves what is known
FIRST_PART = 1.0
SLACK_S = 0.25  # of a first token's time, which no speed explains
FARTHEST = 64.0  # nobody is taken for more than so many times faster or slower than it says


@dataclass(slots=True)
class _Seen:
    """Logarithms of what was seen over what is advertised; `at` is when."""

    prompt: float = 0.0
    generate: float = 0.0
    prompt_at: float = -math.inf
    generate_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens a second for one sequence; 0 where neither an ad nor anything seen tells."""

    prompt_tps: float
    generate_tps: float
    proven: bool


class Measured:
    """The record. The least recently noted go where there are too many."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Key, tuple[_Seen, ModelCard]] = OrderedDict()

    def note_first_token(
        self, key: Key, card: ModelCard, *, expected_s: float, took_s: float, now: float
    ) -> None:
        """The first token came after `took_s` where `expected_s` had been estimated with what was known then."""
        seen = self._of(key, card)
        step = math.log((expected_s + SLACK_S) / (took_s + SLACK_S))
        known = seen.prompt * self._weight(seen.prompt_at, now)
        seen.prompt, seen.prompt_at = _bounded(known + step * self._part(seen.prompt_at)), now

    def note_decode(self, key: Key, card: ModelCard, *, tps: float, crowding: float, now: float) -> None:
        """An answer was written at `tps`, where alone it would have been that times `crowding`."""
        advertised = card.generate_tps or GENERATE_TPS_UNKNOWN
        if tps <= 0:
            return
        seen = self._of(key, card)
        known = seen.generate * self._weight(seen.generate_at, now)
        ratio = math.log(tps * crowding / advertised)
        seen.generate = _bounded(known + (ratio - known) * self._part(seen.generate_at))
        seen.generate_at = now

    def speeds(self, key: Key, card: ModelCard, now: float) -> Speeds:
        """What to reckon with now: what was seen, fading into what is advertised."""
        entry = self._seen.get(key)
        if entry is None:
            return Speeds(card.prompt_tps, card.generate_tps, proven=False)
        seen = self._rebased(entry, card)
        prompt = self._weight(seen.prompt_at, now)
        generate = self._weight(seen.generate_at, now)
        return Speeds(
            (card.prompt_tps or PROMPT_TPS_UNKNOWN) * math.exp(seen.prompt * prompt),
            (card.generate_tps or GENERATE_TPS_UNKNOWN) * math.exp(seen.generate * generate),
            proven=now - max(seen.prompt_at, seen.generate_at) < PROVEN_S,
        )

    @staticmethod
    def _weight(at: float, now: float) -> float:
        return math.exp(-max(0.0, now - at) / FADES_S)

    @staticmethod
    def _part(at: float) -> float:
        return PART if at > -math.inf else FIRST_PART

    def _of(self, key: Key, card: ModelCard) -> _Seen:
        """The entry to note something in, which counts against this very ad from now on."""
        entry = self._seen.pop(key, None)
        seen = self._rebased(entry, card) if entry is not None else _Seen()
        while len(self._seen) >= MEASURED_MAX:
            self._seen.popitem(last=False)
        self._seen[key] = seen, card
        return seen

    @staticmethod
    def _rebased(entry: tuple[_Seen, ModelCard], card: ModelCard) -> _Seen:
        """What was seen, over what is advertised now: another ad makes nobody faster."""
        seen, before = entry
        if before is card or (before.prompt_tps, before.generate_tps) == (card.prompt_tps, card.generate_tps):
            return seen
        prompt = (before.prompt_tps or PROMPT_TPS_UNKNOWN) / (card.prompt_tps or PROMPT_TPS_UNKNOWN)
        generate = (before.generate_tps or GENERATE_TPS_UNKNOWN) / (card.generate_tps or GENERATE_TPS_UNKNOWN)
        return _Seen(
            _bounded(seen.prompt + math.log(prompt)),
            _bounded(seen.generate + math.log(generate)),
            seen.prompt_at,
            seen.generate_at,
        )


def _bounded(log_ratio: float) -> float:
    most = math.log(FARTHEST)
    return max(-most, min(most, log_ratio))
