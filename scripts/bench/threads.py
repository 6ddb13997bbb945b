"""Does the worker compute with the right number of threads, beside whatever its owner runs? Compared in one run.

A real worker writes one or four answers beside a program that takes nothing, a fifth of a core or a whole core.
The count that the node chooses is compared with every fixed count, in turns of a few seconds; then that program
starts and stops, and the time counts until the worker is up to the best fixed count again. What is left of the
owner's program's own speed is told as well. `python scripts/bench/threads.py [--json] [--rounds N]`
"""

import mmap
import statistics
import struct
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import shape
import trio

from meshnode.engine import threads
from meshnode.engine.base import EngineState
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.observe import log
from meshnode.terms import Job, Piece, Sampling, Turn, Wish

GOVERNED = 0  # what LlamaEngine.set_threads takes for "as the machine allows"
PAUSED = -1  # no answers at all: the owner's program by itself
LOADS = (0.0, 0.2, 1.0)
WIDTHS = (1, 4)
SETTLE_S = 0.75
TURN_S = 1.0  # short, so that a machine that changes its pace does so to all of a round
STALL_MAX_S = 10.0
WINDOW_S = 0.25
SWITCH_WITHIN_S = 2.0
SWITCH_WATCHED_S = 5.0
SWITCHES = 3
ANSWER_TOKENS = 400
TPS_MIN = 1.0  # a machine too busy for anything shall not divide by zero
ENOUGH = 0.9  # of the best fixed count's speed, and of the owner's program's own
BURNER = """
import mmap, struct, sys, time
duty, path = float(sys.argv[1]), sys.argv[2]
with open(path, "r+b") as file:
    counter, done = mmap.mmap(file.fileno(), 8), 0
    while True:
        begun = time.perf_counter()
        while time.perf_counter() - begun < 0.02 * duty:
            for _ in range(200):
                done += 1
            struct.pack_into("<Q", counter, 0, done)
        time.sleep(0.02 * (1 - duty))
"""


class Burner:
    """The owner's program: takes a share of one core, and counts what it gets done."""

    def __init__(self, counter: mmap.mmap) -> None:
        self._counter = counter

    @property
    def done(self) -> int:
        """What it has got done so far."""
        return int(struct.unpack_from("<Q", self._counter)[0])


@contextmanager
def burning(duty: float) -> Iterator[Burner]:
    """Such a program for as long as the context lasts."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(8))
        file.flush()
        with mmap.mmap(file.fileno(), 8) as counter:
            if not duty:
                yield Burner(counter)
                return
            process = subprocess.Popen([sys.executable, "-c", BURNER, str(duty), file.name])
            try:
                yield Burner(counter)
            finally:
                process.kill()
                process.wait()


@dataclass
class Writing:
    """A worker that writes answers all the time, and when each token came."""

    engine: LlamaEngine
    came: list[float] = field(default_factory=list)
    under_way: set[trio.CancelScope] = field(default_factory=set)
    wanted: trio.Event = field(default_factory=trio.Event)

    def rate(self, since: float, until: float) -> float:
        """Tokens per second in this span."""
        return sum(since <= moment < until for moment in self.came) / (until - since)

    async def fresh(self) -> None:
        """Wait for two more steps: one that stalls over too many threads takes seconds, and takes no command."""
        come = len(self.came)
        with trio.move_on_after(STALL_MAX_S):
            while len(self.came) < come + 2 * max(WIDTHS):  # noqa: ASYNC110 - tokens set no event
                await trio.sleep(WINDOW_S / 10)

    def pause(self) -> None:
        """Write nothing until `go_on`."""
        self.wanted = trio.Event()
        for scope in self.under_way:
            scope.cancel()

    def go_on(self) -> None:
        """Write again."""
        self.wanted.set()

    async def write(self) -> None:
        """One answer after another."""
        while True:
            await self.wanted.wait()
            with trio.CancelScope() as scope:
                self.under_way.add(scope)
                await self._write_one()
            self.under_way.discard(scope)

    async def _write_one(self) -> None:
        turn = Turn(role="user", content="Tell me a very long story about the sea.")
        sampling = Sampling(max_tokens=ANSWER_TOKENS, temperature=0.8)
        async with self.engine.run(Job(id="b", wish=Wish(), turns=(turn,), sampling=sampling)) as emitted:
            async for item in emitted:
                if isinstance(item, Piece):
                    self.came.extend([trio.current_time()] * len(item.ids))


@asynccontextmanager
async def writing(engine: LlamaEngine, width: int) -> AsyncIterator[Writing]:
    """So many answers at the same time, for as long as the context lasts."""
    work = Writing(engine)
    work.go_on()
    async with trio.open_nursery() as nursery:
        for _ in range(width):
            nursery.start_soon(work.write)
        await trio.sleep(SETTLE_S)
        yield work
        nursery.cancel_scope.cancel()


@dataclass
class Measured:
    """Tokens per second, and what the owner's program got done, of each mode in each round."""

    tps: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    owner: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def best(self) -> int:
        """The best fixed count."""
        return max((mode for mode in self.tps if mode > 0), key=self.median)

    def median(self, mode: int) -> float:
        """The tokens per second of a mode."""
        return statistics.median(self.tps[mode])

    def paired(self) -> float:
        """The governed speed over that of the best fixed count, round by round."""
        pairs = zip(self.tps[GOVERNED], self.tps[self.best()], strict=True)
        return statistics.median(ours / max(best, TPS_MIN) for ours, best in pairs)

    def kept(self) -> float:
        """The owner's program's speed beside the governed worker over its own, round by round."""
        pairs = zip(self.owner[GOVERNED], self.owner[PAUSED], strict=True)
        return statistics.median(beside / alone for beside, alone in pairs)


async def compare(engine: LlamaEngine, width: int, duty: float, rounds: int) -> Measured:
    """Every mode in turn, several times over."""
    measured = Measured()
    with burning(duty) as burner:
        async with writing(engine, width) as work:
            modes = (GOVERNED, *range(1, threads.cores() + 1), *((PAUSED,) if duty == 1.0 else ()))
            for number in range(rounds):
                first = number % len(modes)  # nobody is always the one after the slowest
                for mode in modes[first:] + modes[:first]:
                    await take_turn(work, burner, mode, measured)
    return measured


async def take_turn(work: Writing, burner: Burner, mode: int, measured: Measured) -> None:
    """One mode for a moment."""
    if mode == PAUSED:
        work.pause()
        await trio.sleep(SETTLE_S)
    else:
        work.engine.set_threads(mode)
        await trio.sleep(SETTLE_S)
        await work.fresh()
    since, before = trio.current_time(), burner.done
    await trio.sleep(TURN_S)
    until = trio.current_time()
    measured.tps[mode].append(work.rate(since, until))
    measured.owner[mode].append((burner.done - before) / (until - since))
    work.go_on()


async def reaction_s(work: Writing, duties: tuple[float, float], goal_tps: float) -> float:
    """Seconds from a change of the owner's load to the first window that is up to the best fixed count."""
    work.engine.set_threads(GOVERNED)
    with burning(duties[0]):
        await trio.sleep(2 * SETTLE_S)
    with burning(duties[1]):
        changed = trio.current_time()
        await trio.sleep(SWITCH_WATCHED_S)
    ends = [changed + WINDOW_S * number for number in range(1, int(SWITCH_WATCHED_S / WINDOW_S) + 1)]
    reached = (end for end in ends if work.rate(end - WINDOW_S, end) >= ENOUGH * goal_tps)
    return next(reached, ends[-1]) - changed


async def measure(engine: LlamaEngine, rounds: int) -> list[shape.Row]:
    """All of it."""
    rows, best_tps = [], {}
    for width in WIDTHS:
        for duty in LOADS:
            measured = await compare(engine, width, duty, rounds)
            best = measured.best()
            best_tps[width, duty] = measured.median(best)
            name = f"{width} at once beside {duty:g} cores"
            rows.append(
                _row(name, measured.median(GOVERNED), best_tps[width, duty], f"{best} fixed", measured)
            )
            if duty == 1.0:
                rows.append(_kept(f"the owner's program beside {width} at once", measured))
    async with writing(engine, 1) as work:
        for duties in ((0.0, 1.0), (1.0, 0.0)):
            times = [await reaction_s(work, duties, best_tps[1, duties[1]]) for _ in range(SWITCHES)]
            name = f"until right again, {duties[0]:g} to {duties[1]:g} cores"
            value = statistics.median(times) * 1000
            rows.append(shape.Row(name, value, "ms", SWITCH_WITHIN_S * 1000, "allowed", "<= 1"))
    return rows


def _row(name: str, value: float, against: float, rival: str, measured: Measured) -> shape.Row:
    return shape.Row(name, value, "tok/s", against, rival, f">= {ENOUGH}", measured.paired())


def _kept(name: str, measured: Measured) -> shape.Row:
    beside, alone = (statistics.median(measured.owner[mode]) / 1000 for mode in (GOVERNED, PAUSED))
    return shape.Row(name, beside, "k loops/s", alone, "alone", f">= {ENOUGH}", measured.kept())


async def run(model: Path, rounds: int) -> list[shape.Row]:
    """Start the worker and measure."""
    engine = LlamaEngine(ModelFile(path=str(model), digest=bytes(32)), slots=max(WIDTHS), context=4096)
    ready = trio.Event()
    engine.watch(lambda: engine.state is EngineState.READY and ready.set())
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await ready.wait()
        rows = await measure(engine, rounds)
        nursery.cancel_scope.cancel()
    return rows


def main() -> int:
    """Parse, measure, report."""
    parser = shape.arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=8, help="turns of every mode")
    given = parser.parse_args()
    log.configure(wall=lambda: 0.0)
    fetched = subprocess.run(
        [sys.executable, "-m", "meshnode.models"], stdout=subprocess.PIPE, text=True, check=True
    )
    rows = trio.run(run, Path(fetched.stdout.strip()), given.rounds)
    return shape.report("threads", rows, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
