"""Thousands of random runs through one worker over its pipe: `python tests/engine/soak.py 10000 [divided]`.

Lengths, seeds, scopes, stop strings, schemas, resumed answers, vectors, requests that cannot be, and cancels at
any moment. All of it is drawn from one seed; only when things happen is not. It knows the worker's frames, and
nothing that is inside.
"""

import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import psutil
import trio

from meshnode.engine.child import WORKER_COMMAND, start_child
from meshnode.engine.sandbox import Sandbox
from meshnode.engine.worker.frames import (
    Broken,
    Cancel,
    Ended,
    Inspect,
    Inspected,
    Open,
    Ready,
    Refused,
    Run,
    Written,
)
from meshnode.terms import Bias, Job, Output, Sampling, Turn, Wish

SLOTS = 8
CONTEXT = 1024  # few cells, so that idle ones have to go and answers are moved out
SHELF_BYTES = 8 * 1024 * 1024  # soon full
AT_ONCE = 20
HUNG_S = 300.0  # nothing takes that long
SCOPES = (b"", b"a", b"a", b"b", b"c")
WORDS = (
    "blue",
    "house",
    "seven",
    "why",
    "river",
    "and",
    "the",
    "sings",
    "stone",
    "é",
    "日本",
    "?",
    "12",
    "cat",
)
SCHEMA = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'
WARM_RUNS = 1000  # after which memory should not grow any more
GROWTH_MAX_BYTES = 20 * 1024 * 1024


@dataclass
class Life:
    """What is known about one run."""

    job: Job
    cancelled: bool = False
    events: list = field(default_factory=list)
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def ends(self):
        return [event for event in self.events if isinstance(event, Ended | Refused)]

    @property
    def ids(self):
        return tuple(token for event in self.events if isinstance(event, Written) for token in event.ids)


class Soak:
    """One worker, and everything that was asked of it."""

    def __init__(self, runs, seed=1, *, divided=False):
        self.runs = runs
        self.divided = divided
        self.random = random.Random(seed)
        self.lives = {}
        self.finished = []
        self.inspected = []
        self.rss = {}
        self._wake = trio.Event()

    async def play(self, path):
        """All runs, and an inspection after them; the worker has gone when this returns."""
        launch = Sandbox("none").launch(WORKER_COMMAND, str(path))
        async with start_child(launch) as child, trio.open_nursery() as nursery:
            self._child = child
            how = (launch.wall, SHELF_BYTES, False, self.divided)
            child.send(Open(launch.model, SLOTS, CONTEXT, 1, *how))
            nursery.start_soon(self._listen)
            await self._until(lambda: self.ready)
            await self._ask_all()
            await self.inspect(forget=True)
            self._note_memory(self.runs)
            nursery.cancel_scope.cancel()

    ready = False

    async def inspect(self, *, forget):
        """What the worker holds now."""
        before = len(self.inspected)
        self._child.send(Inspect(forget))
        await self._until(lambda: len(self.inspected) > before)
        return self.inspected[-1]

    async def _until(self, condition):
        while not condition():
            self._wake = trio.Event()
            with trio.fail_after(120):
                await self._wake.wait()

    async def _listen(self):
        async for event in self._child.events():
            assert not isinstance(event, Broken), event
            if isinstance(event, Ready):
                self.ready = True
            elif isinstance(event, Inspected):
                self.inspected.append(event)
            elif number := getattr(event, "number", 0):
                self._take(self.lives[number], event)
            self._wake.set()
        raise AssertionError("the worker has gone")

    def _take(self, life, event):
        life.events.append(event)
        if isinstance(event, Ended | Refused):
            life.over.set()

    async def _ask_all(self):
        free = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for number in range(1, self.runs + 1):
                await free.acquire_on_behalf_of(number)
                nursery.start_soon(self._one, number, free)
                if number % WARM_RUNS == 0:
                    self._note_memory(number)

    async def _one(self, number, free):
        job = self.job(number)
        life = self.lives[number] = Life(job)
        self._child.send(Run(number, job, self.random.choice(SCOPES)))
        patience = self.random.choice((HUNG_S,) * 7 + (0, 0.02, self.random.random()))
        with trio.move_on_after(patience):
            await life.over.wait()
        if life.over.is_set():
            self._finish(life)
        else:
            assert patience != HUNG_S, f"run {number} does not end"
            life.cancelled = True
            self._child.send(Cancel(number))
        free.release_on_behalf_of(number)

    def _finish(self, life):
        if len(life.ids) > 1 and life.job.output is Output.TEXT:
            self.finished = [*self.finished[-20:], life]

    def _note_memory(self, number):
        self.rss[number] = psutil.Process(self._child.pid).memory_info().rss
        print(f"{number} of {self.runs}: {self.rss[number] / 2**20:.1f} MiB", file=sys.stderr)

    def job(self, number):
        """A job of a random kind."""
        draw = self.random
        kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "resume" and self.finished:
            life = draw.choice(self.finished)
            return msgspec.structs.replace(
                life.job, id=str(number), resume=life.ids[: draw.randrange(1, len(life.ids) + 1)]
            )
        words = draw.choices(WORDS, k=draw.choice((1, 2, 5, 9)) if kind != "long" else 100)
        sampling = {
            "max_tokens": draw.randint(1, 60 if draw.random() < 0.02 else 5),
            "temperature": draw.choice((0.0, 0.8, 1.5)),
            "seed": draw.randrange(10),
            "logprobs": draw.random() < 0.1,
            "frequency_penalty": draw.choice((0.0, 0.0, 1.0)),
        }
        settings = {}
        match kind:
            case "stop":
                sampling["stop"] = tuple(draw.choices(("e", " the", ".", "\n"), k=2))
            case "json":
                settings["output"] = Output.JSON_OBJECT
            case "schema":
                settings |= {"output": Output.JSON_SCHEMA, "schema": SCHEMA}
                sampling["max_tokens"] += 8
            case "vectors":
                settings["inputs"] = (" ".join(words), "other")
            case "bad schema":
                settings |= {"output": Output.JSON_SCHEMA, "schema": '{"type": "no such"}'}
            case "bad bias":
                sampling["logit_bias"] = (Bias(10**6, 1.0),)
            case "bad resume":
                settings["resume"] = (10**6,)
            case "too long":
                words = words * 500
        turns = (Turn(role="user", content=" ".join(words)),)
        return Job(id=str(number), wish=Wish(), turns=turns, sampling=Sampling(**sampling), **settings)

    def faults(self):
        """Everything that was not as it should be."""
        for number, life in self.lives.items():
            ends = life.ends
            if len(ends) != 1 and not (life.cancelled and not ends):
                yield f"run {number} ended {len(ends)} times"
            if ends and life.events[-1] is not ends[-1]:
                yield f"run {number} went on after its end"
            if ends and isinstance(ends[0], Ended) and not life.job.inputs:
                resumed = len(life.job.resume)
                if ends[0].completion_tokens > max(life.job.sampling.max_tokens, resumed):
                    yield f"run {number} wrote {ends[0].completion_tokens} tokens"
                if len(life.ids) > ends[0].completion_tokens - resumed:
                    yield f"run {number} let {len(life.ids)} ids out"
        last = self.inspected[-1]
        if (last.runs, last.cells, last.idle, last.occupied) != (0, 0, 0, 0):
            yield f"something is left: {last}"

    def outcomes(self):
        """How many runs came to which end."""
        return Counter(
            life.ends[0].reason if isinstance(life.ends[0], Ended) else life.ends[0].code
            for life in self.lives.values()
            if life.ends
        ) + Counter(cancelled=sum(life.cancelled and not life.ends for life in self.lives.values()))

    @property
    def cached(self):
        """The share of prompt tokens that were not computed."""
        ended = [e for life in self.lives.values() for e in life.ends if isinstance(e, Ended)]
        return sum(e.cached_tokens for e in ended) / max(1, sum(e.prompt_tokens for e in ended))


KINDS = {
    "plain": 50,
    "stop": 12,
    "resume": 12,
    "json": 4,
    "schema": 4,
    "long": 3,
    "vectors": 3,
    "bad schema": 3,
    "bad bias": 3,
    "bad resume": 3,
    "too long": 3,
}


def main(arguments):
    """Play as many runs as asked for, and say what came of it; 1 if anything was wrong."""
    runs = int(arguments[0]) if arguments else 300
    command = [sys.executable, "-m", "meshnode.models"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    soak = Soak(runs, divided="divided" in arguments)
    trio.run(soak.play, path)
    faults = list(soak.faults())
    grown = soak.rss[runs] - soak.rss.get(WARM_RUNS, soak.rss[runs])
    if grown > GROWTH_MAX_BYTES:
        faults.append(f"that is more than {GROWTH_MAX_BYTES >> 20} MiB")
    print(f"{runs} runs: {dict(soak.outcomes())}; {soak.cached:.0%} of prompt tokens were cached")
    print(f"memory grew by {grown / 2**20:.1f} MiB since the first {WARM_RUNS}")
    print(*(faults or ["nothing wrong"]), sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
