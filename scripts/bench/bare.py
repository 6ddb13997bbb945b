"""A worker asked through its own pipe, and the barest loop around llama.cpp that does the same work.

Both take the same schedule: one token for every answer and up to CHUNK_TOKENS of prompts beside them in one step, or
LONG_TOKENS while more prompts wait than answers are written.
The bare loop has no text, no pipe, no limits and no other duties: what it takes is what llama.cpp takes. The two take
turns of half a second, since a shared machine's pace changes by a tenth from one ten seconds to the next.
As a script this file is the bare loop.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rivals import Setup

from meshnode.engine.child import WORKER_COMMAND
from meshnode.engine.worker.frames import Ended, FrameReader, Open, Ready, Refused, Run, pack, read_event
from meshnode.terms import Job, Sampling, Turn, Wish

CHUNK_TOKENS, LONG_TOKENS = 128, 512
READ_BYTES = 1 << 16
TURN_S = 0.5

Conversation = Sequence[dict[str, str]]
Counts = list[tuple[int, int]]  # prompt and answer tokens of each run


class Pipe:
    """A worker process, spoken to in frames."""

    def __init__(self, setup: Setup) -> None:
        self.process = subprocess.Popen(
            WORKER_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._frames = FrameReader()
        self._last = 0
        self._send(Open(setup.model, setup.slots, setup.context, setup.threads))
        while not any(isinstance(event, Ready) for event in self._hear()):
            pass

    def ask_all(self, conversations: Sequence[Conversation], tokens: int) -> Counts:
        """Ask all at once, and wait until the last has ended; what each came to."""
        self._send(*(self._run(conversation, tokens) for conversation in conversations))
        counts: Counts = []
        while len(counts) < len(conversations):
            for event in self._hear():
                if isinstance(event, Refused):
                    raise SystemExit(event.message)
                if isinstance(event, Ended):
                    counts.append((event.prompt_tokens, event.completion_tokens))
        return counts

    def _run(self, conversation: Conversation, tokens: int) -> Run:
        self._last += 1
        turns = tuple(Turn(role=turn["role"], content=turn["content"]) for turn in conversation)
        sampling = Sampling(temperature=0.0, max_tokens=tokens)
        return Run(self._last, Job(id="bench", wish=Wish(), turns=turns, sampling=sampling))

    def _send(self, *commands: Open | Run) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(pack(commands))
        self.process.stdin.flush()

    def _hear(self) -> Iterator[object]:
        assert self.process.stdout is not None
        received = os.read(self.process.stdout.fileno(), READ_BYTES)
        if not received:
            raise SystemExit("the worker ended")
        for body in self._frames.feed(received):
            yield read_event(body)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


class Bare:
    """The bare loop, in a process of its own."""

    def __init__(self, setup: Setup) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(setup))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def repeat(self, counts: Counts) -> None:
        """Compute as many prompt and answer tokens as these."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(counts), file=self.process.stdin, flush=True)
        if not self.process.stdout.readline():
            raise SystemExit("the bare loop ended")

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


@contextmanager
def both(setup: Setup) -> Iterator[tuple[Pipe, Bare]]:
    """Both, for as long as the context lasts."""
    pipe, bare = Pipe(setup), Bare(setup)
    try:
        yield pipe, bare
    finally:
        pipe.close()
        bare.close()


Work = tuple[subprocess.Popen[Any], Callable[[], object]]  # which process does it, and waiting for it


def in_turns(*works: Work) -> list[tuple[float, Any]]:
    """Do all of these, only one process awake at a time; how many seconds each was, and what came of it."""
    awake_s = [0.0] * len(works)
    with ThreadPoolExecutor(len(works)) as pool:
        for process, _ in works:
            process.send_signal(signal.SIGSTOP)
        outcomes = [pool.submit(work) for _, work in works]
        while not all(outcome.done() for outcome in outcomes):
            for number, ((process, _), outcome) in enumerate(zip(works, outcomes, strict=True)):
                awake_s[number] += 0.0 if outcome.done() else _turn(process, outcome)
        for process, _ in works:
            process.send_signal(signal.SIGCONT)
    return [(seconds, outcome.result()) for seconds, outcome in zip(awake_s, outcomes, strict=True)]


def _turn(process: subprocess.Popen[Any], outcome: Future[object]) -> float:
    """Let a process work for TURN_S, or until it is done; seconds."""
    begun = time.perf_counter()
    process.send_signal(signal.SIGCONT)
    wait((outcome,), TURN_S)
    taken_s = time.perf_counter() - begun
    process.send_signal(signal.SIGSTOP)
    return taken_s


# --- As a script: the bare loop ---


def open_bare(setup: Setup):
    """The model and its context, with the worker's own parameters."""
    from llama_cpp import llama_cpp as c

    c.llama_backend_init()
    model = c.llama_model_load_from_file(setup.model.encode(), c.llama_model_default_params())
    params = c.llama_context_default_params()
    params.n_ctx, params.n_seq_max = setup.context, setup.slots
    params.n_batch = params.n_ubatch = LONG_TOKENS + setup.slots
    params.n_threads = params.n_threads_batch = setup.threads
    params.kv_unified, params.no_perf = True, True
    return c, c.llama_init_from_model(model, params)


def repeat_bare(c, context, batch, counts: Counts) -> None:
    """One step after another until every sequence has its answer."""
    greedy = c.llama_sampler_init_greedy()
    left = [[prompt, answer] for prompt, answer in counts]
    places, tokens = [0] * len(counts), [1000 + number for number in range(len(counts))]
    while any(answer for _, answer in left):
        rows = _fill(batch, left, places, tokens)
        if status := c.llama_decode(context, batch):
            raise SystemExit(f"llama_decode: {status}")
        for number, row in rows:
            tokens[number] = c.llama_sampler_sample(greedy, context, row)
            left[number][1] -= 1
    c.llama_memory_clear(c.llama_get_memory(context), False)
    c.llama_sampler_free(greedy)


def _fill(batch, left: list[list[int]], places: list[int], tokens: list[int]) -> list[tuple[int, int]]:
    """Make the next batch; the sequences that get a token from it, each with its row."""
    waiting, writing = sum(bool(prompt) for prompt, _ in left), sum(not p and bool(a) for p, a in left)
    rows, room, row = [], LONG_TOKENS if waiting > writing else CHUNK_TOKENS, 0
    for number, (prompt, answer) in enumerate(left):
        take = min(prompt, room) if prompt else min(answer, 1)
        for _ in range(take):
            batch.token[row] = tokens[number]
            batch.pos[row] = places[number]
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = number
            batch.logits[row] = 0
            places[number] += 1
            row += 1
        if prompt:
            room -= take
            left[number][0] -= take
        if take and not left[number][0]:
            batch.logits[row - 1] = 1
            rows.append((number, row - 1))
    batch.n_tokens = row
    return rows


def main() -> None:
    """Repeat what each line of standard input says."""
    setup = Setup(**json.loads(sys.argv[1]))
    c, context = open_bare(setup)
    batch = c.llama_batch_init(LONG_TOKENS + setup.slots, 0, 1)
    for line in sys.stdin:
        repeat_bare(c, context, batch, json.loads(line))
        print("done", flush=True)


if __name__ == "__main__":
    main()
