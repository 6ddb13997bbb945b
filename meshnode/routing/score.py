"""What a candidate costs, in seconds. Measured and advertised speeds in, one number and its terms out.

U = rtt + wait + prefill + decode, where wait = (queued prefill + own sent since) / prompt speed
+ queued decode / generation speed. For a request that leaves the model open, a preference for better models
is a term too.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from meshnode.terms import Candidate, ModelCard, Wish

PROMPT_TPS_UNKNOWN = 100.0  # a modest machine; measured speeds replace it as soon as there are any
GENERATE_TPS_UNKNOWN = 10.0
RTT_UNKNOWN_MS = 250.0
TIGHT_CONTEXT_S = 30.0  # an estimate says that the prompt will not fit: last choice, not ruled out
QUALITY_PER_DOUBLING_S = 2.0  # how long a caller who leaves the model open waits for twice the parameters
QUALITY_PER_TIER_S = 0.5
QUALITY_BASE_PARAMETERS = 1e8
DEPRIORITISED_S = 2.0  # how much longer it may take elsewhere before a node is asked that would rather not
SENT_MEMORY_S = 30.0
SENT_MAX = 4096

_SIZE = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([kmbt])")
_SCALE = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}

OwnSent = Mapping[tuple[bytes, bytes], int]
"""Prompt tokens sent to (node, weights digest) that its vitals do not show yet."""


@dataclass(frozen=True, slots=True)
class Score:
    """The terms of U, each in seconds; `preference` is negative for what is wanted more."""

    rtt_s: float
    wait_s: float
    prefill_s: float
    decode_s: float
    preference_s: float = 0.0

    @property
    def first_token_s(self) -> float:
        """The estimated time to the first token."""
        return self.rtt_s + self.wait_s + self.prefill_s

    @property
    def total_s(self) -> float:
        """U: the estimated time to the last token, and the preference."""
        return self.first_token_s + self.decode_s + self.preference_s


def score(candidate: Candidate, wish: Wish, *, auto: bool = False, own_sent: OwnSent | None = None) -> Score:
    """What it would cost to run this request there."""
    card = candidate.card
    prompt_tps = card.prompt_tps or PROMPT_TPS_UNKNOWN
    generate_tps = card.generate_tps or GENERATE_TPS_UNKNOWN
    unseen = (own_sent or {}).get((candidate.node, card.digest), 0)
    return Score(
        rtt_s=_rtt_s(candidate),
        wait_s=(candidate.queued_prefill + unseen) / prompt_tps + candidate.queued_decode / generate_tps,
        prefill_s=wish.prompt_tokens / prompt_tps,
        decode_s=wish.output_tokens / speed_beside(card, candidate.in_flight),
        preference_s=_tightness_s(card, wish)
        + (DEPRIORITISED_S if candidate.deprioritised else 0.0)
        - (quality_s(card) if auto else 0.0),
    )


def speed_beside(card: ModelCard, in_flight: int) -> float:
    """Tokens per second for one more sequence beside those that run.

    The total grows from the speed of one sequence to `batch_gain` times that with all slots busy.
    """
    single = card.generate_tps or GENERATE_TPS_UNKNOWN
    batch = min(in_flight + 1, max(card.slots, 1))
    share = (batch - 1) / (card.slots - 1) if card.slots > 1 else 0.0
    return single * (1 + (card.batch_gain - 1) * share) / batch


def capacity(card: ModelCard) -> float:
    """Tokens per second with all slots busy: the weight of a node when one is drawn by lot."""
    return (card.generate_tps or GENERATE_TPS_UNKNOWN) * max(card.batch_gain, 1.0)


def quality_s(card: ModelCard) -> float:
    """How many seconds a better model is worth to a caller who leaves the choice open."""
    doublings = math.log2(max(parameters(card.size), 1e6) / QUALITY_BASE_PARAMETERS)
    return QUALITY_PER_DOUBLING_S * doublings + QUALITY_PER_TIER_S * card.tier


def parameters(size: str) -> float:
    """How many parameters a size such as `135m`, `8b` or `8x7b` names; the base when it names none."""
    match = _SIZE.fullmatch(size.strip().lower())
    if match is None:
        return QUALITY_BASE_PARAMETERS
    experts, number, unit = match.groups()
    return int(experts or 1) * float(number) * _SCALE[unit]


class SentLedger:
    """What this node has sent to others since their vitals last told: old news makes herds."""

    def __init__(self) -> None:
        self._sent: dict[tuple[bytes, bytes], list[tuple[float, int, int]]] = {}

    def note(self, node: bytes, digest: bytes, tokens: int, *, vitals_seq: int, now: float) -> None:
        """A request with that many prompt tokens went out, when the node's vitals were at this seq."""
        self._forget(now)
        if len(self._sent) < SENT_MAX:
            self._sent.setdefault((node, digest), []).append((now, vitals_seq, tokens))

    def since(self, vitals_seqs: Mapping[bytes, int], now: float) -> dict[tuple[bytes, bytes], int]:
        """Tokens sent to each that its current vitals cannot show, given the seq of each node's vitals."""
        self._forget(now)
        return {
            key: sum(tokens for _, seq, tokens in entries if seq >= vitals_seqs.get(key[0], 0))
            for key, entries in self._sent.items()
        }

    def _forget(self, now: float) -> None:
        fresh = {
            key: [entry for entry in entries if now - entry[0] < SENT_MEMORY_S]
            for key, entries in self._sent.items()
        }
        self._sent = {key: entries for key, entries in fresh.items() if entries}


def _rtt_s(candidate: Candidate) -> float:
    if not candidate.path:
        return 0.0
    return (RTT_UNKNOWN_MS if candidate.rtt_ms is None else candidate.rtt_ms) / 1000


def _tightness_s(card: ModelCard, wish: Wish) -> float:
    estimate = wish.prompt_tokens + wish.output_tokens
    return TIGHT_CONTEXT_S if 0 < card.context < estimate else 0.0
