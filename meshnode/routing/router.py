"""All that one node has learnt for its decisions, and the decisions: plan, ask, send, note how it went.

The only thing that changes in this room. It is told what happened and when; it asks nobody and waits for nothing.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from meshnode.routing import policy
from meshnode.routing.breaker import Breakers, Outcome
from meshnode.routing.hedging import Hedging, kind_of
from meshnode.routing.ledger import Key, SentLedger, key_of
from meshnode.routing.measured import Measured
from meshnode.routing.plan import Choice, Plan, choice_of, make_plan
from meshnode.routing.prefixes import Prefix, PrefixLog, prefixes_of
from meshnode.routing.probing import Asking, Reply
from meshnode.routing.retries import RetryBudget
from meshnode.routing.score import Known, Worth, crowding
from meshnode.seams import Rng
from meshnode.terms import Candidate, Job

HEARD_MAX = 1024
MEASURED_TOKENS = 8  # fewer tell nothing of a speed
VitalsSeqs = Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a node said of itself when it was asked, in place of vitals that are no newer."""

    at: float
    vitals_seq: int
    reply: Reply


class Flight:
    """One request that went to one candidate, from when it was sent until it ended, once."""

    def __init__(self, router: "Router", choice: Choice, job: Job, now: float) -> None:
        self.candidate = choice.candidate
        self._router = router
        self._choice = choice
        self._number = f"{job.id}/{next(router.numbers)}"
        self._sent_at = now
        self._kind = None if job.resume else kind_of(job, choice.candidate.card)
        self._first_at = self._last_at = 0.0
        self._tokens = 0  # after those that came first
        self._over = False

    @property
    def id(self) -> str:
        """What tells it from all others of this node."""
        return self._number

    @property
    def expected_s(self) -> float:
        """When its first token was expected, from when it was sent."""
        return self._choice.score.first_token_s

    def tokens(self, count: int, now: float) -> None:
        """So many more tokens came."""
        self._last_at = now
        if not self._first_at:
            self._first_at = now
            self._router.began(self._choice, now - self._sent_at, now)
            if self._kind is not None:
                self._router.hedging.began(self._kind, now - self._sent_at)
        else:
            self._tokens += count

    def ended(self, outcome: Outcome | None, now: float) -> None:
        """It is over; None says nothing about its node."""
        if self._over:
            return
        self._over = True
        took_s = self._last_at - self._first_at  # the end itself may be held back
        known = self._tokens >= MEASURED_TOKENS and took_s > 0
        self._router.ended(self, self._choice, outcome, self._tokens / took_s if known else 0.0, now)


class Router:
    """What one node knows of the others from its own dealings with them."""

    def __init__(self, rng: Rng, worth: Worth = Worth(), *, hedges: bool = False) -> None:  # noqa: B008 - frozen
        self.budget = RetryBudget()
        self.hedging = Hedging(self.budget, on=hedges)
        self.breakers = Breakers(rng)
        self.numbers = itertools.count()
        self._rng = rng
        self._worth = worth
        self._sent = SentLedger()
        self._measured = Measured()
        self._prefixes = PrefixLog()
        self._heard: OrderedDict[Key, _Heard] = OrderedDict()

    # --- Deciding ---

    def plan(
        self,
        job: Job,
        candidates: Iterable[Candidate],
        vitals_seqs: VitalsSeqs,
        now: float,
        *,
        tried: policy.Tried = (),
        by_lot: bool = True,
    ) -> Plan:
        """The decision by what is known without asking anybody; `by_lot` as the `rng` of `make_plan`."""
        prefixes = prefixes_of(job)
        return make_plan(
            job,
            (self._as_heard(candidate, vitals_seqs) for candidate in candidates),
            tried=tried,
            known_of=lambda candidate: self._known(candidate, prefixes, vitals_seqs, now),
            worth=self._worth,
            rng=self._rng if by_lot else None,
        )

    def choice(self, candidate: Candidate, job: Job, vitals_seqs: VitalsSeqs, now: float) -> Choice:
        """One candidate with its score, as it stands now."""
        candidate = self._as_heard(candidate, vitals_seqs)
        known = self._known(candidate, prefixes_of(job), vitals_seqs, now)
        model = policy.parse_model(job.wish.model)
        return choice_of(candidate, job.wish, model, known, self._worth)

    def asking(self, plan: Plan, job: Job, now: float) -> Asking:
        """Whom to ask before the decision; nobody when there is nothing to choose between."""
        model = policy.parse_model(job.wish.model)

        def rescore(choice: Choice, reply: Reply) -> Choice:
            known, candidate = choice.known, _with(choice.candidate, reply)
            known = Known(
                prompt_tps=known.prompt_tps,
                generate_tps=known.generate_tps,
                matched_prefix=known.matched_prefix,
                share=known.share,
                proven=known.proven,
                first_token_s=reply.first_token_s,
            )
            return choice_of(candidate, job.wish, model, known, self._worth)

        return Asking(plan, rescore, self._rng, now, lambda key: self.breakers.is_due(key, now))

    def heard(self, candidate: Candidate, reply: Reply, vitals_seqs: VitalsSeqs, now: float) -> None:
        """A node said how it is."""
        key = key_of(candidate)
        self._heard.pop(key, None)
        while len(self._heard) >= HEARD_MAX:
            self._heard.popitem(last=False)
        self._heard[key] = _Heard(now, vitals_seqs.get(candidate.node, 0), reply)

    def _as_heard(self, candidate: Candidate, vitals_seqs: VitalsSeqs) -> Candidate:
        """The candidate with the newest that is known of its queue."""
        heard = self._heard.get(key_of(candidate))
        if heard is None or heard.vitals_seq < vitals_seqs.get(candidate.node, 0):
            return candidate
        return _with(candidate, heard.reply)

    def _known(
        self, candidate: Candidate, prefixes: tuple[Prefix, ...], vitals_seqs: VitalsSeqs, now: float
    ) -> Known:
        key = key_of(candidate)
        heard = self._heard.get(key)
        current = heard is not None and heard.vitals_seq >= vitals_seqs.get(candidate.node, 0)
        sent = self._sent.since(
            key, vitals_seqs, heard.at if heard is not None and current else -math.inf, now
        )
        speeds = self._measured.speeds(key, candidate.card, now)
        return Known(
            sent=sent.requests,
            sent_prefill=sent.prefill,
            sent_decode=sent.decode,
            prompt_tps=speeds.prompt_tps,
            generate_tps=speeds.generate_tps,
            matched_prefix=self._prefixes.matched(key, prefixes, now) if prefixes else 0,
            open=not self.breakers.lets_through(key, now),
            silent=self.breakers.is_silent(key),
            share=self.breakers.share(key, now),
            proven=speeds.proven,
        )

    # --- What became of it ---

    def sent(self, choice: Choice, job: Job, vitals_seqs: VitalsSeqs, now: float) -> Flight:
        """A request goes there now."""
        key, flight = key_of(choice.candidate), Flight(self, choice, job, now)
        self._sent.note(
            flight.id,
            key,
            prefill=job.wish.prompt_tokens,
            decode=job.wish.output_tokens,
            vitals_seq=vitals_seqs.get(choice.candidate.node, 0),
            now=now,
        )
        self._prefixes.note(key, prefixes_of(job), now)
        self.breakers.sent(key, flight.id, now)
        return flight

    def failed(self, candidate: Candidate, now: float) -> None:
        """It could not even be asked how it is."""
        self.breakers.note(key_of(candidate), "", Outcome.FAILED, now)

    def began(self, choice: Choice, took_s: float, now: float) -> None:
        """A first token came so long after its request was sent."""
        card, expected_s = choice.candidate.card, choice.score.first_token_s
        self._measured.note_first_token(
            key_of(choice.candidate), card, expected_s=expected_s, took_s=took_s, now=now
        )

    def ended(self, flight: Flight, choice: Choice, outcome: Outcome | None, tps: float, now: float) -> None:
        """A request is over, its answer written at `tps` (0: not known)."""
        key, card = key_of(choice.candidate), choice.candidate.card
        self._sent.ended(flight.id)
        if tps:
            in_flight = choice.candidate.in_flight + choice.known.sent
            self._measured.note_decode(key, card, tps=tps, crowding=crowding(card, in_flight), now=now)
        if outcome is None:
            self.breakers.left(key, flight.id)
        else:
            self.breakers.note(key, flight.id, outcome, now)


def _with(candidate: Candidate, reply: Reply) -> Candidate:
    """The candidate with the queue that it told, and its price where it asks less than it advertises."""
    asked_usd = candidate.price_usd if reply.price_usd is None else reply.price_usd
    return msgspec.structs.replace(
        candidate,
        price_usd=min(candidate.price_usd, asked_usd),
        in_flight=reply.in_flight,
        queued_prefill=reply.queued_prefill,
        queued_decode=reply.queued_decode,
        accepting=reply.accepting,
    )
