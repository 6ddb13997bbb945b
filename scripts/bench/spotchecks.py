"""Spot checks with real models: how often a peer with other weights is caught, and that one with the same never is.

A trial is a peer that claims a model and answers with another: its answers are drawn again by the claimed weights,
as a node does it, until it is found foreign or has had CHECKS answers checked. An honest peer runs the same weights,
with another batch, other threads, other kernels or another temperature. Which share of the places is missed by more
than a near tie is what the thresholds in meshnode/routing/spotchecks.py rest on.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

import checkdelay  # noqa: E402 - the paths come first
import trio  # noqa: E402
from shape import BENCH_HOME, Row, arguments, report  # noqa: E402 - the paths come first
from variants import KINDS, model_file, variant  # noqa: E402

from meshnode.engine.worker.cache import Cache  # noqa: E402
from meshnode.engine.worker.embedding import Embedder  # noqa: E402
from meshnode.engine.worker.frames import AnyCommand, Check, Checked, Ended, Event, Run, Written  # noqa: E402
from meshnode.engine.worker.llama import Model  # noqa: E402
from meshnode.engine.worker.loop import Loop  # noqa: E402
from meshnode.engine.worker.measure import Pace, Speed  # noqa: E402
from meshnode.engine.worker.opening import template_of  # noqa: E402
from meshnode.routing.spotchecks import NEAR_TIE, PLACES, SpotChecks  # noqa: E402
from meshnode.terms import Job, Recheck, Redrawn, Sampling, Turn, Wish  # noqa: E402

SMALL, SECOND = "smollm2:135m", "gemma3:270m"
TRIALS, CHECKS, HONEST = 100, 20, 1000
SLOTS, CONTEXT = 8, 2048
TELL_EVERY = 20  # answers
OTHER = "other"  # the other model
TEMPERATURES = (0.0, 0.8, 1.2)
KEY = (b"peer", b"weights")
THINGS = ("rivers", "ships", "bread", "winter", "music", "glass", "bees", "clocks", "iron", "tea", "the moon")
ASKS = ("Tell me about", "What do people like about", "Write three sentences about", "Explain to a child:")


class Worker:
    """The worker's own loop over a model, in this process."""

    def __init__(self, path: Path, *, threads: int = 1, plain: bool = False) -> None:
        model = Model(
            str(path),
            slots=SLOTS,
            context=CONTEXT,
            threads=threads,
            on_progress=lambda _done: None,
            plain=plain,
        )
        self._commands: list[AnyCommand] = []
        self._events: list[Event] = []
        self._loop = Loop(
            model,
            template_of(model),
            cache=Cache(model),
            embedder=Embedder(model),
            pace=Pace(Speed(500.0, 100.0, 2.0), SLOTS),
            commands=self._take,
            emit=self._events.extend,
        )
        self._number = 0

    def _take(self, _wait: bool) -> list[AnyCommand]:
        taken, self._commands = self._commands, []
        return taken

    def answers(self, jobs: Sequence[Job]) -> list[tuple[tuple[int, ...], str]]:
        """The ids and the text of the answers to jobs that run side by side."""
        numbers = [self._next() for _ in jobs]
        self._commands += [Run(number, job) for number, job in zip(numbers, jobs, strict=True)]
        while sum(isinstance(event, Ended) for event in self._events) < len(jobs):
            self._loop.turn()
        written = [event for event in self._events if isinstance(event, Written)]
        self._events.clear()
        mine = [[event for event in written if event.number == number] for number in numbers]
        return [
            (tuple(token for event in events for token in event.ids), "".join(event.text for event in events))
            for events in mine
        ]

    def redrawn(self, job: Job, ids: tuple[int, ...], text: str) -> tuple[Redrawn, ...]:
        """An answer, drawn again."""
        self._commands.append(Check(self._next(), Recheck(job, ids[:PLACES], 0, text)))
        while not any(isinstance(event, Checked) for event in self._events):
            self._loop.turn()
        (found,) = [event for event in self._events if isinstance(event, Checked)]
        self._events.clear()
        return found.places

    def _next(self) -> int:
        self._number += 1
        return self._number


@dataclass
class Tally:
    """What came of the checks of one kind of peer."""

    checked: list[int] = field(default_factory=list)  # answers until it was found foreign, or all of a trial
    found: int = 0
    answers: int = 0
    places: int = 0
    missed: int = 0
    worst: int = 0  # misses in one answer

    def take(self, places: Sequence[Redrawn]) -> None:
        """One answer was drawn again."""
        missed = sum(place.miss > NEAR_TIE for place in places)
        self.answers += 1
        self.places += len(places)
        self.missed += missed
        self.worst = max(self.worst, missed)
        if self.answers % TELL_EVERY == 0:
            told = f"{self.answers} answers: {self.missed} of {self.places} places missed, {self.worst} of one answer"
            print(f"{told}; {self.found} found in {len(self.checked)} trials", file=sys.stderr, flush=True)

    @property
    def missed_share(self) -> float:
        """Missed places, in a thousand."""
        return 1000 * self.missed / max(1, self.places)


def job_for(number: int) -> Job:
    """A question of its own; every third is asked without chance, the others at two temperatures."""
    rng, temperature = random.Random(number), TEMPERATURES[number % len(TEMPERATURES)]
    text = f"{rng.choice(ASKS)} {rng.choice(THINGS)} and {rng.choice(THINGS)} ({number})."
    seed = rng.getrandbits(62) if temperature else None
    return Job(
        id=str(number),
        wish=Wish(),
        turns=(Turn(role="user", content=text),),
        sampling=Sampling(temperature=temperature, seed=seed, max_tokens=PLACES),
    )


def checked(
    peer: Worker, claimed: Worker, first: int, count: int, width: int, tally: Tally
) -> Iterator[tuple[Redrawn, ...]]:
    """Answers of a peer, so many side by side, each drawn again by the claimed weights."""
    for start in range(first, first + count, width):
        jobs = [job_for(number) for number in range(start, min(start + width, first + count))]
        for job, (ids, text) in zip(jobs, peer.answers(jobs), strict=True):
            if ids and (places := claimed.redrawn(job, ids, text)):
                tally.take(places)
                yield places


def trials(peer: Worker, claimed: Worker, count: int, checks: int, width: int) -> Tally:
    """So many peers, each a stranger at first."""
    tally = Tally()
    for trial in range(count):
        tests, before = SpotChecks(random.Random(trial), 0.05), tally.answers
        for places in checked(peer, claimed, 1 + trial * checks, checks, width, tally):
            if tests.note(KEY, places, 0):
                tally.found += 1
                break
        tally.checked.append(tally.answers - before)
    return tally


def honest(peers: Sequence[tuple[Worker, int]], claimed: Worker, count: int) -> Tally:
    """One peer for each way to run the same weights, and all its answers checked."""
    tally, each = Tally(), -(-count // len(peers))
    for place, (peer, width) in enumerate(peers):
        tests = SpotChecks(random.Random(place), 0.05)
        for places in checked(peer, claimed, 100_000 + place * each, each, width, tally):
            tally.found += tests.note(KEY, places, 0) is not None
    return tally


def ways_to_run(path: Path) -> list[tuple[Worker, int]]:
    """The same weights in other batches, with other threads and with other kernels."""
    return [(Worker(path), 8), (Worker(path, threads=2), 3), (Worker(path, plain=True), 1)]


def foreign_rows(name: str, tally: Tally) -> list[Row]:
    """How many were caught, how soon, and how much they miss."""
    count = len(tally.checked)
    return [
        Row(f"{name}: caught", tally.found, "peers", count, "all", ">= 1.0"),
        Row(f"{name}: answers, at most", max(tally.checked), "answers", CHECKS, "promised", "<= 1.0"),
        Row(f"{name}: missed of 1,000 places", tally.missed_share, "places", 1000, "all"),
    ]


def honest_rows(name: str, tally: Tally) -> list[Row]:
    """That none was accused, and how much they miss."""
    return [
        Row(
            f"{name}: accused in {tally.answers:,} checks",
            tally.found,
            "times",
            tally.answers,
            "all",
            "<= 0.0",
        ),
        Row(f"{name}: missed of one answer, at most", tally.worst, "places", PLACES, "all"),
        Row(f"{name}: missed of 1,000 places", tally.missed_share, "places", 1000, "all"),
    ]


def measure(options: argparse.Namespace) -> list[Row]:
    """Every pair of a claimed model and what runs in its place."""
    rows: list[Row] = []
    paths = {name: model_file(name) for name in (SMALL, SECOND)}
    home = BENCH_HOME / "variants"
    for name in options.claimed:
        other = SECOND if name == SMALL else SMALL
        claimed = Worker(paths[name])
        if options.honest:
            tally = honest(ways_to_run(paths[name]), claimed, options.honest)
            rows += honest_rows(f"{name}, honest", tally)
        for kind in options.kinds if options.trials else ():
            path = paths[other] if kind == OTHER else variant(paths[name], kind, home)
            tally = trials(Worker(path), claimed, options.trials, options.checks, 4)
            rows += foreign_rows(f"{name}, in truth {other if kind == OTHER else kind}", tally)
    if options.delay:
        beside, alone = trio.run(checkdelay.measure, paths[SMALL], options.delay)
        rows.append(Row("first token, a check under way", beside, "ms", alone, "none", "<= 1.5"))
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=TRIALS, help="peers of each kind with other weights")
    parser.add_argument(
        "--checks", type=int, default=CHECKS, help="answers of each that are checked, at most"
    )
    parser.add_argument("--honest", type=int, default=HONEST, help="checks of peers with the same weights")
    parser.add_argument("--kinds", nargs="+", choices=(OTHER, *KINDS), default=(OTHER, "q2_k", "q4_0"))
    parser.add_argument(
        "--delay", type=int, default=checkdelay.ROUNDS, help="requests that come amid a check"
    )
    parser.add_argument("--claimed", nargs="*", choices=(SMALL, SECOND), default=(SMALL, SECOND))
    return report("spotchecks", measure(options := parser.parse_args()), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
