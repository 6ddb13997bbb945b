"""Which of the candidates to ask how they are before one is chosen, and whom to take by what they answer.

Old figures herd: so a few are drawn by capacity and asked, and the one that will be done first is taken. Pure: what
came and what did not is told to it, and when; asking is somebody else's.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from meshnode.routing.ceilings import asks_more
from meshnode.routing.decision import Decision
from meshnode.routing.ledger import Key, key_of
from meshnode.routing.plan import Choice, Plan, Rejected, Rung, cost_of
from meshnode.routing.policy import Reason
from meshnode.routing.score import capacity
from meshnode.seams import Rng
from meshwire.limits import HELD_LEAST_S, HELD_MAX_S, HELD_ROUND_TRIPS

ASKED_MOST = 3
EXPLORED_SHARE = 0.05  # of requests go to somebody of whom nothing is known lately, where that costs little
EXPLORED_SLOWER = 2.0
EXPLORED_LATER_S = 2.0
WAIT_LEAST_S = 0.1
WAIT_LATEST_S = 1.0
WAIT_ROUND_TRIPS = 2.0


@dataclass(frozen=True, slots=True)
class Reply:
    """How a candidate says it is: its queue without the asker's own request, and when that would begin to answer.

    `price_usd` is what it asks now; None where it does not say.
    """

    in_flight: int
    queued_prefill: int
    queued_decode: int
    first_token_s: float = 0.0
    accepting: bool = True
    price_usd: float | None = None


def held_s(rtt_ms: float | None) -> float:
    """How long a place is kept for who asked: there and back twice, and not less than half a second."""
    return min(max(HELD_LEAST_S, HELD_ROUND_TRIPS * (rtt_ms or 0.0) / 1000), HELD_MAX_S)


class Asking:
    """The candidates of one request that are asked, and what they have answered so far.

    `rescore` gives a choice anew by its reply. `due` are those whose breaker waits for a request to try them with.
    """

    def __init__(
        self,
        plan: Plan,
        rescore: Callable[[Choice, Reply], Choice],
        rng: Rng,
        now: float,
        due: Callable[[Key], bool] = lambda _key: False,
    ) -> None:
        self.decided = False  # what comes now is too late
        self._plan = plan
        self._rescore = rescore
        rung = first_rung(plan)
        self._explored = _to_explore(rung, rng, due)
        self.asked = _drawn(rung, self._explored, rng)
        self.until = now + max(map(_patience_s, self.asked), default=0.0)
        self._waiting = {key_of(choice.candidate): choice for choice in self.asked}
        self._answered: dict[Key, Choice] = {}
        self._refused: set[Key] = set()
        self._dearer: list[Rejected] = []

    def answered(self, choice: Choice, reply: Reply) -> None:
        """One has answered."""
        key = key_of(choice.candidate)
        self._waiting.pop(key, None)
        if asks_more(reply.price_usd, choice.candidate.price_usd):
            self._dearer.append(Rejected(choice.candidate, Reason.DEARER))
        elif reply.accepting:
            self._answered[key] = self._rescore(choice, reply)
        else:
            self._refused.add(key)

    def keeps(self, choice: Choice) -> bool:
        """Whether it has answered and may be taken: then its place is to be kept."""
        return key_of(choice.candidate) in self._answered

    def failed(self, choice: Choice) -> None:
        """One cannot be asked."""
        key = key_of(choice.candidate)
        self._waiting.pop(key, None)
        self._refused.add(key)

    def settled(self, now: float) -> bool:
        """Whether there is nothing left to wait for: none of the others can be expected to do better."""
        if not self._waiting or now >= self.until:
            return True
        if not self._answered or (self._explored is not None and self._explored in self._waiting):
            return False
        best = min(map(_total_s, self._answered.values()))
        return best <= min(map(_total_s, self._waiting.values()))

    def decision(self) -> Decision:
        """The decision, as it stands now."""
        asked = frozenset(key_of(choice.candidate) for choice in self.asked)
        plan = replace(self._plan, rejected=(*self._plan.rejected, *self._dearer))
        return Decision(plan, self.ordered(), asked, frozenset(self._answered))

    def ordered(self) -> tuple[Choice, ...]:
        """Whom to take, best first: who answered, who was not asked or did not answer in time, who said no.

        Who asks more than it advertises is not taken at all.
        """
        answered = sorted(self._answered.values(), key=cost_of)
        for place, choice in enumerate(answered):
            if key_of(choice.candidate) == self._explored and _cheap(choice, answered[0]):
                answered.insert(0, answered.pop(place))
        gone = {*self._answered, *(key_of(one.candidate) for one in self._dearer)}
        rest = [one for one in self._plan.choices if key_of(one.candidate) not in gone]
        silent = [one for one in rest if key_of(one.candidate) not in self._refused]
        if answered:  # after one that answered, somebody who was asked and said nothing is a bad bet
            silent.sort(key=lambda one: key_of(one.candidate) in self._waiting)
        refused = [one for one in rest if key_of(one.candidate) in self._refused]
        return (*answered, *silent, *refused)


def first_rung(plan: Plan) -> list[Choice]:
    """The choices of the rung that the plan begins with, if they are other nodes: those can be asked."""
    if not plan.choices or plan.choices[0].rung in (Rung.LOCAL, Rung.CLOUD):
        return []
    return [choice for choice in plan.choices if choice.rung is plan.choices[0].rung]


def _to_explore(rung: Sequence[Choice], rng: Rng, due: Callable[[Key], bool]) -> Key | None:
    """Somebody to try though others look better: one that failed and is due, or now and then one not seen lately."""
    late = [key_of(choice.candidate) for choice in rung if due(key_of(choice.candidate))]
    if late:
        return late[0]
    if len(rung) < 2 or rng.random() >= EXPLORED_SHARE:
        return None
    unseen = [choice for choice in rung if not choice.known.proven]
    return key_of(_draw(unseen, rng).candidate) if unseen else None


def _drawn(rung: Sequence[Choice], explored: Key | None, rng: Rng) -> tuple[Choice, ...]:
    """Up to ASKED_MOST: the one to explore, who has most of the prompt, the best by what is known, and by lot."""
    if len(rung) < 2:
        return ()
    affine = max(rung, key=lambda choice: choice.known.matched_prefix)
    picked = [choice for choice in rung if key_of(choice.candidate) == explored]
    picked += [affine] if affine.known.matched_prefix else []
    picked.append(min(rung, key=cost_of))
    picked = list({key_of(choice.candidate): choice for choice in picked}.values())
    rest = [choice for choice in rung if choice not in picked]
    while rest and len(picked) < ASKED_MOST:
        picked.append(_draw(rest, rng))
        rest.remove(picked[-1])
    return tuple(picked)


def _draw(choices: Sequence[Choice], rng: Rng) -> Choice:
    """One by lot, weighted by capacity; nobody of whom nothing was seen weighs more than is usual here."""
    weights = [capacity(choice.candidate.card, choice.known) for choice in choices]
    usual = statistics.median(weights)
    pairs = zip(weights, choices, strict=True)
    return rng.choices(choices, [w if choice.known.proven else min(w, usual) for w, choice in pairs])[0]


def _cheap(choice: Choice, best: Choice) -> bool:
    """Whether it costs little more, by the time that the best takes: preferences may make its total negative."""
    allowed_s = (EXPLORED_SLOWER - 1) * best.score.last_token_s + EXPLORED_LATER_S
    return _total_s(choice) - _total_s(best) <= allowed_s


def _total_s(choice: Choice) -> float:
    return choice.score.total_s


def _patience_s(choice: Choice) -> float:
    """How long an answer is waited for: two round trips, within bounds."""
    return min(max(WAIT_LEAST_S, WAIT_ROUND_TRIPS * choice.score.rtt_s), WAIT_LATEST_S)
