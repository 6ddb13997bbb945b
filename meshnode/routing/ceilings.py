"""What a job can cost at most at one place, in money and in energy, and whether its ceilings allow that. Pure.

An estimate of the answer's length is none of these: what holds is the length that was asked for, or else all that the
model has room for. Who sends a job looks with it at others, and who gets one at itself.
"""

import math

from meshnode.errors import BudgetExceeded, MeshError
from meshnode.routing.score import (
    GENERATE_TPS_UNKNOWN,
    NOTHING,
    PROMPT_TPS_UNKNOWN,
    USD_TOKENS,
    Known,
    crowding,
)
from meshnode.terms import Candidate, Job, ModelCard

SAME_PRICE = 1e-9  # USD for a million tokens: what arithmetic may make of one and the same


def most_tokens(job: Job, card: ModelCard) -> float:
    """The most answer tokens that a job can lead to; infinite where neither it nor the model has a bound."""
    if job.inputs:
        return 0
    return job.sampling.max_tokens or card.context or math.inf


def most_usd(job: Job, card: ModelCard, price_usd: float) -> float:
    """The most that a job can cost at this price, in USD for a million answer tokens."""
    return price_usd * most_tokens(job, card) / USD_TOKENS if price_usd else 0.0


def most_joules(job: Job, card: ModelCard, *, known: Known = NOTHING, in_flight: int = 0) -> float | None:
    """The most energy that a job can take there, beside so many others; None where the machine cannot tell."""
    if not card.watts:
        return None
    prefill_s = job.wish.prompt_tokens / (known.prompt_tps or card.prompt_tps or PROMPT_TPS_UNKNOWN)
    token_s = crowding(card, in_flight) / (known.generate_tps or card.generate_tps or GENERATE_TPS_UNKNOWN)
    return card.watts * (prefill_s + most_tokens(job, card) * token_s)


def too_dear(job: Job, candidate: Candidate) -> bool:
    """Whether a candidate could cost more than the request allows."""
    limit = job.wish.max_price_usd
    if limit is None:
        return False
    if candidate.cloud is not None:
        return candidate.cloud.most_usd > limit
    return most_usd(job, candidate.card, candidate.price_usd) > limit


def asks_more(price_usd: float | None, advertised_usd: float) -> bool:
    """Whether a node asks more than it advertises; one of an older version does not say, and is taken at its word."""
    return price_usd is not None and price_usd > advertised_usd + SAME_PRICE


def refusal(job: Job, card: ModelCard, price_usd: float) -> MeshError | None:
    """Why a node that asks this price must not serve another's job; None if it may."""
    if job.price_usd is not None and asks_more(price_usd, job.price_usd):
        return BudgetExceeded(
            f"The node asks {price_usd:g} USD for a million tokens now, and the request reckons with "
            f"{job.price_usd:g}.",
            hint="Ask again shortly: its new price is on its way.",
        )
    cost_usd, limit_usd = most_usd(job, card, price_usd), job.wish.max_price_usd
    if limit_usd is not None and cost_usd > limit_usd:
        return BudgetExceeded(
            f"The request could cost {cost_usd:g} USD, and {limit_usd:g} are allowed.",
            hint="Ask for a shorter answer (max_tokens), or allow more (max_price).",
        )
    return _energy_refusal(job, card)


def _energy_refusal(job: Job, card: ModelCard) -> MeshError | None:
    limit = job.wish.max_joules
    if limit is None:
        return None
    joules = most_joules(job, card)
    if joules is None:
        return BudgetExceeded("The node cannot tell what energy the request takes, and that is limited.")
    if joules <= limit:
        return None
    return BudgetExceeded(
        f"The request could take {joules:.0f} J, and {limit:g} are allowed.",
        hint="Ask for a shorter answer (max_tokens), or allow more (max_joules).",
    )
