"""Who routes as meshnode does: the project's own plan, score, record and probes, one router for each entry; and the
bound that nobody can reach: the same score on what is so at this moment, for nothing.
"""

import random

from fleets.fleet import GAIN, SLOTS, Fleet, Machine, Request
from meshnode.routing.breaker import Outcome
from meshnode.routing.plan import Choice
from meshnode.routing.probing import Asking, Reply, held_s
from meshnode.routing.router import Flight, Router
from meshnode.routing.score import score
from meshnode.terms import Candidate, Job, ModelCard, Trust, Wish

DIGEST = b"w" * 32
FIRST_BYTE_S = 10.0


def card_of(machine: Machine) -> ModelCard:
    """What a machine advertises."""
    return ModelCard(
        name="fleet:8b",
        family="fleet",
        size="8b",
        quant="Q4_K_M",
        tier=3,
        digest=DIGEST,
        context=32_768,
        prompt_tps=machine.prompt_tps * machine.claims,
        generate_tps=machine.tps * machine.claims,
        slots=SLOTS,
        batch_gain=GAIN,
    )


def node_of(worker: int) -> bytes:
    """The id of a machine."""
    return worker.to_bytes(20, "big")


def job_of(request: Request) -> Job:
    """A request as meshnode has it."""
    wish = Wish(model="fleet:8b", prompt_tokens=request.prompt, output_tokens=request.output)
    return Job(id=str(request.number), wish=wish, turns=(), deadline_ms=3_600_000)


def candidate_of(card: ModelCard, worker: int, rtt_s: float, load: tuple[int, int, int]) -> Candidate:
    """A machine as a candidate."""
    node = node_of(worker)
    return Candidate(
        node=node,
        card=card,
        trust=Trust.TRUSTED,
        path=(node,),
        rtt_ms=rtt_s * 1000,
        in_flight=load[0],
        queued_prefill=load[1],
        queued_decode=load[2],
    )


class Omniscient:
    """Takes the least U by the exact state of all machines, what is on its way included."""

    def __init__(self, seed: int) -> None:
        self._cards: list[ModelCard] = []

    def arrived(self, fleet: Fleet, request: Request) -> None:
        """A request came in."""
        self._cards = self._cards or [card_of(machine) for machine in fleet.machines]
        wish = job_of(request).wish
        fleet.send(
            request, min(range(len(fleet.machines)), key=lambda n: self._cost(fleet, request, wish, n))
        )

    def _cost(self, fleet: Fleet, request: Request, wish: Wish, worker: int) -> float:
        fleet.look(worker)
        machine = fleet.machines[worker]
        runs, prefill, decode = machine.load()
        coming = machine.coming
        load = (
            runs + len(coming),
            prefill + sum(one.prompt for one in coming),
            decode + sum(one.output for one in coming),
        )
        candidate = candidate_of(self._cards[worker], worker, fleet.rtt(request.entry, worker), load)
        return score(candidate, wish).total_s

    def began(self, fleet: Fleet, request: Request) -> None:
        """Its first token came."""

    def ended(self, fleet: Fleet, request: Request) -> None:
        """Its last token came."""


class Meshnode:
    """A router for each entry; probes travel as requests do, and machines keep places for who asked."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._routers: dict[int, Router] = {}
        self._cards: list[ModelCard] = []
        self._candidates: dict[tuple[int, int], tuple[int, Candidate]] = {}
        self._flights: dict[Request, Flight] = {}
        self.silences: dict[int, list[tuple[float, int]]] = {}  # when an entry waited in vain, and for whom
        self._tried: dict[Request, list[tuple[bytes, bytes]]] = {}

    def _router(self, entry: int) -> Router:
        if entry not in self._routers:
            self._routers[entry] = Router(random.Random(self._rng.random()))
        return self._routers[entry]

    def _known(self, fleet: Fleet, entry: int) -> list[Candidate]:
        """What gossip has brought to this entry."""
        self._cards = self._cards or [card_of(machine) for machine in fleet.machines]
        found: list[Candidate] = []
        for worker, news in enumerate(fleet.news):
            seq, candidate = self._candidates.get((entry, worker), (-1, None))
            if candidate is None or seq != news.seq:
                candidate = candidate_of(self._cards[worker], worker, fleet.rtt(entry, worker), news.load)
                self._candidates[entry, worker] = news.seq, candidate
            found.append(candidate)
        return found

    @staticmethod
    def _seqs(fleet: Fleet) -> dict[bytes, int]:
        return {node_of(worker): news.seq for worker, news in enumerate(fleet.news)}

    def arrived(self, fleet: Fleet, request: Request) -> None:
        """A request came in."""
        router, job, seqs = self._router(request.entry), job_of(request), self._seqs(fleet)
        if not request.attempts:
            router.budget.asked(fleet.now)
        tried = self._tried.get(request, ())
        plan = router.plan(job, self._known(fleet, request.entry), seqs, fleet.now, tried=tried)
        if not plan.choices:
            fleet.fail(request)
            return
        asking = router.asking(plan, job, fleet.now)
        attempt = request.attempts
        for choice in asking.asked:
            half = choice.score.rtt_s / 2
            fleet.after(half, self._asked, fleet, request, attempt, asking, choice)
        fleet.after(asking.until - fleet.now, self._decide, fleet, request, attempt, asking)

    def _asked(self, fleet: Fleet, request: Request, attempt: int, asking: Asking, choice: Choice) -> None:
        """A machine is asked how it is, and keeps a place."""
        worker = int.from_bytes(choice.candidate.node, "big")
        machine = fleet.machines[worker]
        fleet.look(worker)
        runs, prefill, decode = machine.load()
        held = [place for key, place in machine.held.items() if place[0] > fleet.now and key != request.entry]
        reply = Reply(
            runs + len(held), prefill + sum(one[1] for one in held), decode + sum(one[2] for one in held)
        )
        if request.attempts == attempt:
            until = fleet.now + held_s(choice.candidate.rtt_ms)
            machine.held[request.entry] = until, request.prompt, request.output
        fleet.after(choice.score.rtt_s / 2, self._answered, fleet, request, attempt, asking, choice, reply)

    def _answered(
        self,
        fleet: Fleet,
        request: Request,
        attempt: int,
        asking: Asking,
        choice: Choice,
        reply: Reply,
    ) -> None:
        self._router(request.entry).heard(choice.candidate, reply, self._seqs(fleet), fleet.now)
        if request.attempts == attempt:
            asking.answered(choice, reply)
            if asking.settled(fleet.now):
                self._decide(fleet, request, attempt, asking)

    def _decide(self, fleet: Fleet, request: Request, attempt: int, asking: Asking) -> None:
        if request.attempts != attempt or request.lost:
            return
        chosen, router = asking.ordered()[0], self._router(request.entry)
        for choice in asking.asked:
            worker = int.from_bytes(choice.candidate.node, "big")
            fleet.after(choice.score.rtt_s / 2, self._release, fleet, worker, request.entry)
        flight = router.sent(chosen, job_of(request), self._seqs(fleet), fleet.now)
        self._flights[request] = flight
        fleet.send(request, int.from_bytes(chosen.candidate.node, "big"))
        fleet.after(FIRST_BYTE_S + 2 * flight.expected_s, self._overdue, fleet, request, flight)

    @staticmethod
    def _release(fleet: Fleet, worker: int, entry: int) -> None:
        fleet.machines[worker].held.pop(entry, None)

    def _overdue(self, fleet: Fleet, request: Request, flight: Flight) -> None:
        """Nothing came in time. A machine that works says so, and gets more of it; one that is wedged does not."""
        if self._flights.get(request) is not flight or request.first_at == request.first_at:
            return
        if not fleet.machines[request.worker].wedged:
            fleet.after(FIRST_BYTE_S, self._overdue, fleet, request, flight)
            return
        flight.ended(Outcome.SILENT, fleet.now)
        self.silences.setdefault(request.entry, []).append((fleet.now, request.worker))
        self._tried.setdefault(request, []).append((flight.candidate.node, DIGEST))
        fleet.give_up(request)
        self.arrived(fleet, request)

    def began(self, fleet: Fleet, request: Request) -> None:
        """Its first token came."""
        self._flights[request].tokens(1, fleet.now)

    def ended(self, fleet: Fleet, request: Request) -> None:
        """Its last token came."""
        flight = self._flights.pop(request)
        if request.output > 1:
            flight.tokens(request.output - 1, fleet.now)
        flight.ended(Outcome.SERVED, fleet.now)
