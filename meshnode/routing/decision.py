"""A decision as it was made, or would be, for whoever asks why: each candidate, with its reason or its terms.

It explains; it decides nothing.
"""

from dataclasses import dataclass

import msgspec

from meshnode.routing.ledger import Key, key_of
from meshnode.routing.plan import Choice, Plan, Rejected
from meshnode.terms import Candidate
from meshwire.ids import NodeId, to_text


class CandidateView(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate. `place` counts from 1, 0 for one that is ruled out, and `reason` says why that is.

    `terms` are those of the score, in seconds, and `total_s` their sum; `asked` tells whether it was asked how it is,
    `answered` whether its figures are its own answer; `generate_tps` is what is reckoned with.
    """

    node: str
    model: str
    quant: str
    trust: str
    links: int
    place: int = 0
    rung: str = ""
    reason: str = ""
    total_s: float = 0.0
    terms: dict[str, float] = {}
    in_flight: int = 0
    asked: bool = False
    answered: bool = False
    generate_tps: float = 0.0
    proven: bool = False


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """The whole decision; `refusal` is the error of a request that nobody may serve.

    `made` tells one that a request has led to from one that would be made now, `hedge` whether a second node was, or
    would be, sent the request beside the first.
    """

    model: str
    candidates: tuple[CandidateView, ...]
    refusal: str = ""
    made: bool = False
    hedge: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A plan, and the order that came of asking some of its candidates."""

    plan: Plan
    choices: tuple[Choice, ...]
    asked: frozenset[Key] = frozenset()
    answered: frozenset[Key] = frozenset()

    def choice_of(self, candidate: Candidate) -> Choice | None:
        """What was decided about one that may serve."""
        key = key_of(candidate)
        return next((choice for choice in self.choices if key_of(choice.candidate) == key), None)

    def view(self, *, made: bool = False) -> DecisionView:
        """The decision as plain data; `made` says that a request has led to it."""
        chosen = [self._chosen(place, choice) for place, choice in enumerate(self.choices, start=1)]
        return DecisionView(
            model=self.plan.wanted,
            candidates=(*chosen, *map(_rejected, self.plan.rejected)),
            refusal="" if self.choices else self.plan.refusal().message,
            made=made,
        )

    def _chosen(self, place: int, choice: Choice) -> CandidateView:
        candidate, cost, key = choice.candidate, choice.score, key_of(choice.candidate)
        terms = {
            "rtt": cost.rtt_s,
            "wait": cost.wait_s,
            "prefill": cost.prefill_s,
            "decode": cost.decode_s,
            "price": cost.price_s,
            "energy": cost.energy_s,
            "preference": cost.preference_s,
        }
        return msgspec.structs.replace(
            _facts(candidate),
            place=place,
            rung=choice.rung,
            total_s=round(cost.total_s, 4),
            terms={name: round(term, 4) for name, term in terms.items()},
            in_flight=candidate.in_flight + choice.known.sent,
            asked=key in self.asked,
            answered=key in self.answered,
            generate_tps=round(choice.known.generate_tps or candidate.card.generate_tps, 2),
            proven=choice.known.proven,
        )


def _rejected(one: Rejected) -> CandidateView:
    return msgspec.structs.replace(_facts(one.candidate), reason=one.reason)


def _facts(candidate: Candidate) -> CandidateView:
    card = candidate.card
    return CandidateView(
        node=candidate.cloud.api if candidate.cloud is not None else to_text(NodeId(candidate.node)),
        model=card.name,
        quant=card.quant,
        trust=candidate.trust.name.lower(),
        links=len(candidate.path),
    )
