"""Many answers of the real model under JSON schemas, each checked with jsonschema. `schema_runs.py N MODEL`,
where `python -m meshnode.models` prints the path of a model.

Prints how many ended with `stop`, how many of those are valid (all, or it exits with 1), and the cost.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path

from meshnode.engine.worker.cache import Cache
from meshnode.engine.worker.embedding import Embedder
from meshnode.engine.worker.frames import Ended, Refused, Run, Written
from meshnode.engine.worker.llama import Model
from meshnode.engine.worker.loop import Loop
from meshnode.engine.worker.measure import Pace, Speed
from meshnode.engine.worker.opening import template_of
from meshnode.engine.worker.schema import fault
from meshnode.terms import FinishReason, Job, Output, Sampling, Turn, Wish

CASES = json.loads((Path(__file__).parent / "schemas.json").read_text(encoding="utf-8"))["held"]
MAX_TOKENS = 200


class Worker:
    """A loop over the real model, in this process: jobs go in, and what became of them comes out."""

    def __init__(self, path, *, slots=8, context=8192):
        self.model = Model(str(path), slots=slots, context=context, threads=1, on_progress=lambda done: None)
        template = template_of(self.model)
        self.commands, self.events = [], []
        pace = Pace(Speed(100.0, 100.0, 1.0), slots)
        self.loop = Loop(
            self.model,
            template,
            cache=Cache(self.model),
            embedder=Embedder(self.model),
            pace=pace,
            commands=self.take,
            emit=self.events.extend,
        )

    def take(self, wait):
        taken, self.commands = self.commands, []
        return taken

    def answer(self, *jobs):
        """For each job its written events and its end, an Ended or a Refused."""
        self.events.clear()
        self.commands = [Run(number, job) for number, job in enumerate(jobs)]
        while sum(isinstance(event, Ended | Refused) for event in self.events) < len(jobs):
            self.loop.turn()
        return [self._of(number) for number in range(len(jobs))]

    def _of(self, number):
        mine = [event for event in self.events if getattr(event, "number", None) == number]
        return [e for e in mine if isinstance(e, Written)], next(
            e for e in mine if isinstance(e, Ended | Refused)
        )


def job_for(case, seed, *, max_tokens=MAX_TOKENS):
    """Ask for an example of a schema; every third greedily, the others warm."""
    name, schema = case["name"], json.dumps(case["schema"])
    text = f"Write an example of a {name.replace('-', ' ')} as JSON for this schema: {schema[:150]}"
    return Job(
        id=f"{name}-{seed}",
        wish=Wish(),
        turns=(Turn(role="user", content=text),),
        sampling=Sampling(seed=seed, temperature=0.0 if seed % 3 == 0 else 0.9, max_tokens=max_tokens),
        output=Output.JSON_SCHEMA,
        schema=schema,
    )


def run(worker, count):
    """Answers to `count` jobs over all schemas in turn: (case, text, end) of each."""
    jobs = [(CASES[number % len(CASES)], number) for number in range(count)]
    answers = worker.answer(*[job_for(case, number) for case, number in jobs])
    return [
        (case, "".join(event.text for event in written), end)
        for (case, _), (written, end) in zip(jobs, answers, strict=True)
    ]


def main(count, path):
    worker = Worker(path)
    started = time.perf_counter()
    found = run(worker, count)
    took = time.perf_counter() - started
    ends = Counter(end.reason if isinstance(end, Ended) else end.code for _, _, end in found)
    broken = [
        (case["name"], why, text)
        for case, text, end in found
        if isinstance(end, Ended) and end.reason is FinishReason.STOP and (why := fault(case["schema"], text))
    ]
    refused = [(case["name"], end.message) for case, _, end in found if isinstance(end, Refused)]
    cut = Counter(case["name"] for case, _, end in found if isinstance(end, Ended) and end.reason != "stop")
    tokens = sum(end.completion_tokens for _, _, end in found if isinstance(end, Ended))
    print(f"{count} answers in {took:.1f} s, {tokens} tokens, {tokens / took:.0f} tokens/s: {dict(ends)}")
    print(f"stop {100 * ends['stop'] / count:.1f}%, invalid among them {len(broken)}, cut {dict(cut)}")
    for what in [*broken, *refused]:
        print(*what)
    return 1 if broken or refused else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
