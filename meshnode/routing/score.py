"""What a candidate costs, in seconds. Measured and advertised speeds in, one number and its terms out.

U = rtt + wait + prefill + decode + price + energy. The wait is for the prompts that are to be read before this
one and, where every slot is taken, for the answers that must end first. For a request that leaves the model open,
a preference for better models is a term too. What this node has seen itself outweighs what a peer says.
"""

from dataclasses import dataclass, field

from meshnode.routing.quality import Qualities
from meshnode.terms import Candidate, ModelCard, Wish

PROMPT_TPS_UNKNOWN = 100.0  # a modest machine; measured speeds replace it as soon as there are any
GENERATE_TPS_UNKNOWN = 10.0
RTT_UNKNOWN_MS = 250.0
TIGHT_CONTEXT_S = 30.0  # an estimate says that the prompt will not fit: last choice, not ruled out
DEPRIORITISED_S = 2.0  # how much longer it may take elsewhere before a node is asked that would rather not
USD_TOKENS = 1e6  # prices are for so many tokens of answers


@dataclass(frozen=True, slots=True)
class Worth:
    """What money, energy and good models are worth to the owner: seconds of waiting for a dollar and for a joule."""

    usd_s: float = 0.0
    joule_s: float = 0.0
    qualities: Qualities = field(default_factory=Qualities)


@dataclass(frozen=True, slots=True)
class Known:
    """What this node itself knows of a candidate, besides what that says of itself.

    `sent`, `sent_prefill` and `sent_decode` are requests, prompt and answer tokens that went there and that its
    queue figures cannot show; `prompt_tps` and `generate_tps` are measured for one sequence, 0 before any was;
    `matched_prefix` is how many tokens of this prompt went there before; `open` means that its breaker lets nothing
    through, `silent` that it did not even fail when it was tried last; `share` is how much of its capacity to count
    on, below 1 when it has just recovered; `proven` whether anything was measured lately; `first_token_s` is what it
    itself estimated, round trip apart.
    """

    sent: int = 0
    sent_prefill: int = 0
    sent_decode: int = 0
    prompt_tps: float = 0.0
    generate_tps: float = 0.0
    matched_prefix: int = 0
    open: bool = False
    silent: bool = False
    share: float = 1.0
    proven: bool = False
    first_token_s: float = 0.0


NOTHING = Known()


@dataclass(frozen=True, slots=True)
class Score:
    """The terms of U, each in seconds; `preference` is negative for what is wanted more."""

    rtt_s: float
    wait_s: float
    prefill_s: float
    decode_s: float
    price_s: float = 0.0
    energy_s: float = 0.0
    preference_s: float = 0.0

    @property
    def first_token_s(self) -> float:
        """The estimated time to the first token."""
        return self.rtt_s + self.wait_s + self.prefill_s

    @property
    def last_token_s(self) -> float:
        """The estimated time to the last token."""
        return self.first_token_s + self.decode_s

    @property
    def total_s(self) -> float:
        """U: the estimated time to the last token, what it costs, and the preference."""
        return self.last_token_s + self.price_s + self.energy_s + self.preference_s


def score(
    candidate: Candidate,
    wish: Wish,
    *,
    auto: bool = False,
    task: str = "",
    known: Known = NOTHING,
    worth: Worth = Worth(),
) -> Score:
    """What it would cost to run this request there; with `auto`, how good its model is at the task counts too."""
    card = candidate.card
    prompt_tps = known.prompt_tps or card.prompt_tps or PROMPT_TPS_UNKNOWN
    generate_tps = known.generate_tps or card.generate_tps or GENERATE_TPS_UNKNOWN
    in_flight = candidate.in_flight + known.sent
    prefill_s = max(0, wish.prompt_tokens - known.matched_prefix) / prompt_tps
    wait_s = (candidate.queued_prefill + known.sent_prefill) / prompt_tps
    wait_s += slot_wait_tokens(card, in_flight, candidate.queued_decode + known.sent_decode) / generate_tps
    decode_s = wish.output_tokens * crowding(card, in_flight) / generate_tps
    return Score(
        rtt_s=_rtt_s(candidate),
        wait_s=max(wait_s, known.first_token_s - prefill_s),
        prefill_s=prefill_s,
        decode_s=decode_s,
        price_s=worth.usd_s * candidate.price_usd * wish.output_tokens / USD_TOKENS,
        energy_s=worth.joule_s * card.watts * (prefill_s + decode_s) if worth.joule_s else 0.0,
        preference_s=_tightness_s(card, wish)
        + (DEPRIORITISED_S if candidate.deprioritised else 0.0)
        - (worth.qualities.worth_s(card, task) if auto else 0.0),
    )


def slot_wait_tokens(card: ModelCard, in_flight: int, queued_decode: int) -> float:
    """Answer tokens that one sequence alone could write until a slot is free for one more.

    With a free slot nobody waits. Else as many answers must end as there are runs too many, and all slots
    together write `batch_gain` times as fast as one.
    """
    running = max(in_flight, 1)
    too_many = max(0, running - max(card.slots, 1) + 1)
    return queued_decode * too_many / running / max(card.batch_gain, 1.0)


def crowding(card: ModelCard, in_flight: int) -> float:
    """How many times slower one more sequence is, beside those that run, than it would be alone.

    The total grows from the speed of one sequence to `batch_gain` times that with all slots busy.
    """
    batch = min(in_flight + 1, max(card.slots, 1))
    share = (batch - 1) / (card.slots - 1) if card.slots > 1 else 0.0
    return batch / (1 + (card.batch_gain - 1) * share)


def speed_beside(card: ModelCard, in_flight: int) -> float:
    """Tokens per second for one more sequence beside those that run."""
    return (card.generate_tps or GENERATE_TPS_UNKNOWN) / crowding(card, in_flight)


def capacity(card: ModelCard, known: Known = NOTHING) -> float:
    """Tokens per second with all slots busy: the weight of a node when one is drawn by lot."""
    generate_tps = known.generate_tps or card.generate_tps or GENERATE_TPS_UNKNOWN
    return generate_tps * max(card.batch_gain, 1.0) * known.share


def _rtt_s(candidate: Candidate) -> float:
    if not candidate.path:
        return 0.0
    return (RTT_UNKNOWN_MS if candidate.rtt_ms is None else candidate.rtt_ms) / 1000


def _tightness_s(card: ModelCard, wish: Wish) -> float:
    estimate = wish.prompt_tokens + wish.output_tokens
    return TIGHT_CONTEXT_S if 0 < card.context < estimate else 0.0
