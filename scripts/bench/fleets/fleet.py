"""A fleet of machines that answer requests, in virtual time; nothing but the standard library, so that a rival's own
environment can run it too.

A machine computes as llama.cpp does: each step takes a chunk of one prompt and one token for each run that answers,
so that they slow each other down. Requests come in at nodes without a model and travel for half a round trip.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

CHUNK_TOKENS = 128
SLOTS = 4
GAIN = 2.5  # how much faster all slots together write than one
FASTEST_PROMPT_TPS = 3000.0
FASTEST_TPS = 75.0
SPREAD = 60.0
EPSILON = 1e-9
BUSY_REQUESTS = 1000


@dataclass(eq=False)
class Request:
    """One request: tokens in, tokens out, where it came in and when, and what became of it (times, NaN: not yet)."""

    number: int
    at: float
    prompt: int
    output: int
    entry: int
    worker: int = -1
    first_at: float = math.nan
    done_at: float = math.nan
    attempts: int = 0
    lost: bool = False
    prefill_left: float = 0.0
    decode_left: float = 0.0


@dataclass(eq=False)
class Machine:
    """One machine. `claims` is how many times faster it says it is; nothing comes from one that is `wedged`."""

    prompt_tps: float
    tps: float
    claims: float = 1.0
    wedged: bool = False
    waiting: deque[Request] = field(default_factory=deque)
    active: list[Request] = field(default_factory=list)
    coming: dict[Request, None] = field(default_factory=dict)  # on their way, for those who know everything
    held: dict[object, tuple[float, int, int]] = field(
        default_factory=dict
    )  # reserved: until, prompt, output
    version: int = 0
    at: float = 0.0

    def load(self) -> tuple[int, int, int]:
        """Requests, prompt tokens and answer tokens that it has before it."""
        runs = [*self.waiting, *self.active]
        prefill = sum(max(0.0, run.prefill_left) for run in runs)
        return len(runs), int(prefill), int(sum(run.decode_left for run in runs))

    def take(self, request: Request, now: float) -> None:
        """One more."""
        self.advance(now)
        request.prefill_left, request.decode_left = float(request.prompt), float(request.output)
        self.waiting.append(request)
        self._fill()

    def drop(self, request: Request, now: float) -> None:
        """Nobody wants it any more."""
        self.advance(now)
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.active:
            self.active.remove(request)
        self._fill()

    def _fill(self) -> None:
        while self.waiting and len(self.active) < SLOTS:
            self.active.append(self.waiting.popleft())

    def _rates(self) -> tuple[Request | None, float, float]:
        """Who reads its prompt, at how many tokens a second, and how fast each that answers writes."""
        reading = next((run for run in self.active if run.prefill_left > EPSILON), None)
        writing = sum(run.prefill_left <= EPSILON for run in self.active)
        share = (writing - 1) / (SLOTS - 1) if writing else 0.0
        step_s = writing / (self.tps * (1 + (GAIN - 1) * share))
        if reading is None:
            return None, 0.0, 1 / step_s if writing else 0.0
        step_s += CHUNK_TOKENS / self.prompt_tps
        return reading, CHUNK_TOKENS / step_s, 1 / step_s

    def advance(self, now: float) -> list[Request]:
        """Compute until now; the runs that have their first token, or their last, since the last time."""
        elapsed, self.at = now - self.at, now
        if self.wedged or not self.active or elapsed <= 0:
            return []
        reading, prompt_rate, rate = self._rates()
        news: list[Request] = []
        for run in self.active:
            if run is reading:
                run.prefill_left -= prompt_rate * elapsed
                if run.prefill_left <= EPSILON * run.prompt:
                    run.prefill_left = 0.0
                    run.decode_left -= 1
                    news.append(run)
            elif run.prefill_left <= EPSILON:
                run.decode_left -= rate * elapsed
            if run.prefill_left <= EPSILON and run.decode_left <= 1e-6 and run not in news:
                news.append(run)
        done = [run for run in news if run.decode_left <= 1e-6 and run.prefill_left <= EPSILON]
        for run in done:
            self.active.remove(run)
        self._fill()
        return news

    def next_at(self) -> float:
        """When the next run has its first or last token, if nothing else comes."""
        if self.wedged or not self.active:
            return math.inf
        reading, prompt_rate, rate = self._rates()
        soonest = math.inf
        if reading is not None:
            soonest = reading.prefill_left / prompt_rate
        left = [run.decode_left for run in self.active if run.prefill_left <= EPSILON]
        if left and rate:
            soonest = min(soonest, max(0.0, min(left)) / rate)
        return self.at + soonest + 1e-9


class Policy(Protocol):
    """Whoever routes requests."""

    def arrived(self, fleet: "Fleet", request: Request) -> None:
        """A request came in; sooner or later it is sent with `fleet.send`."""
        ...

    def began(self, fleet: "Fleet", request: Request) -> None:
        """Its first token came back."""
        ...

    def ended(self, fleet: "Fleet", request: Request) -> None:
        """Its last token came back."""
        ...


@dataclass
class News:
    """What gossip last told of a machine's load; `seq` grows each time."""

    seq: int = 0
    load: tuple[int, int, int] = (0, 0, 0)


class Fleet:
    """Machines, requests and time. `rtt(entry, worker)` is in seconds."""

    def __init__(
        self,
        machines: Sequence[Machine],
        requests: Sequence[Request],
        rtt: Callable[[int, int], float],
        gossip_s: float,
        policy: Policy,
        seed: int,
    ) -> None:
        self.machines = machines
        self.requests = requests
        self.rtt = rtt
        self.now = 0.0
        self.news = [News() for _ in machines]
        self.left = len(requests)
        self._gossip_s = gossip_s
        self.policy = policy
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = itertools.count()
        phases = random.Random(seed)
        for worker in range(len(machines)):
            self.after(phases.random() * gossip_s, self._tell, worker)
        self._next = iter(requests)
        self._bring()

    def after(self, delay_s: float, call: Callable[..., None], *given: object) -> None:
        """Call back so much later."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._count), call, given))

    def run(self) -> None:
        """Play until every request has ended."""
        while self.left and self._events:
            self.now, _, call, given = heapq.heappop(self._events)
            call(*given)

    def _bring(self) -> None:
        request = next(self._next, None)
        if request is not None:
            self.after(request.at - self.now, self._arrive, request)

    def _arrive(self, request: Request) -> None:
        self._bring()
        self.policy.arrived(self, request)

    def _tell(self, worker: int) -> None:
        self.news[worker].seq += 1
        self.look(worker)
        self.news[worker].load = self.machines[worker].load()
        self.after(self._gossip_s, self._tell, worker)

    # --- Requests on their way ---

    def send(self, request: Request, worker: int) -> None:
        """Send a request to a machine."""
        request.worker = worker
        request.attempts += 1
        self.machines[worker].coming[request] = None
        self.after(self.rtt(request.entry, worker) / 2, self._reach, request, worker, request.attempts)

    def give_up(self, request: Request) -> None:
        """Call a request back, to send it elsewhere or not at all."""
        self.machines[request.worker].coming.pop(request, None)
        self.after(self.rtt(request.entry, request.worker) / 2, self._drop, request, request.worker)

    def _drop(self, request: Request, worker: int) -> None:
        if request.worker != worker:
            self.machines[worker].drop(request, self.now)

    def fail(self, request: Request) -> None:
        """A request that is answered with an error."""
        request.lost = True
        self.left -= 1

    def _reach(self, request: Request, worker: int, attempt: int) -> None:
        machine = self.machines[worker]
        machine.coming.pop(request, None)
        if request.attempts == attempt:
            self.look(worker)
            machine.take(request, self.now)
            self._plan(worker)

    def look(self, worker: int) -> None:
        """Bring a machine up to this moment."""
        for run in self.machines[worker].advance(self.now):
            half = self.rtt(run.entry, worker) / 2
            if run.decode_left > 1e-6:
                self.after(half, self._began, run, worker)
            else:
                self.after(half, self._ended, run, worker)
        self._plan(worker)

    def _plan(self, worker: int) -> None:
        machine = self.machines[worker]
        machine.version += 1
        at = machine.next_at()
        if at < math.inf:
            self.after(at - self.now, self._step, worker, machine.version)

    def _step(self, worker: int, version: int) -> None:
        if self.machines[worker].version == version:
            self.look(worker)

    def _began(self, request: Request, worker: int) -> None:
        if request.worker == worker and math.isnan(request.first_at):
            request.first_at = self.now
            self.policy.began(self, request)

    def _ended(self, request: Request, worker: int) -> None:
        if request.worker == worker and math.isnan(request.done_at):
            self._began(request, worker)
            request.done_at = self.now
            self.left -= 1
            self.policy.ended(self, request)


def machines_of(count: int, seed: int) -> list[Machine]:
    """So many in any order, their speeds spread evenly by ratio from the fastest to SPREAD times slower."""
    shares = [SPREAD ** (-number / (count - 1)) for number in range(count)]
    random.Random(seed).shuffle(shares)  # who takes the first of equals must not find the fastest there
    return [Machine(FASTEST_PROMPT_TPS * share, FASTEST_TPS * share) for share in shares]


def requests_per_s(machines: Sequence[Machine], trace: Sequence[tuple[float, int, int]]) -> float:
    """What they can do together for ever, of requests of these sizes: one of them is kept busy, and counted."""
    busy = Machine(FASTEST_PROMPT_TPS, FASTEST_TPS)
    sample = trace[:: max(1, len(trace) // BUSY_REQUESTS)]
    for number, (_, prompt, output) in enumerate(sample):
        busy.take(Request(number, 0.0, prompt, output, 0), 0.0)
    while busy.waiting:
        busy.advance(busy.next_at())
    done = len(sample) - len(busy.active)
    return done / busy.at * sum(one.tps / FASTEST_TPS for one in machines)


def paced(
    trace: Sequence[tuple[float, int, int]], machines: Sequence[Machine], entries: int, load: float, seed: int
) -> list[Request]:
    """The trace's requests, as fast after one another as makes this load; each comes in at an entry by lot."""
    span_s = len(trace) / (load * requests_per_s(machines, trace))
    pace = span_s / (trace[-1][0] - trace[0][0])
    rng = random.Random(seed)
    return [
        Request(number, (at - trace[0][0]) * pace, prompt, output, rng.randrange(entries))
        for number, (at, prompt, output) in enumerate(trace)
    ]
