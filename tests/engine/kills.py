"""Kills a real worker at random moments under load: `python tests/engine/kills.py 50` (the suite runs 8).

Several streams run all the time. Whatever moment a kill hits (reading, writing, loading), every stream must end
with exactly one EngineCrashed, go on from its token ids with the next index once the worker is back, and reach
its full length; and the engine must stay up.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from meshnode.engine import process
from meshnode.engine.base import EngineState
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.errors import Busy, EngineCrashed
from meshnode.terms import End, FinishReason, Job, Piece, Sampling, Turn, Wish

STREAMS = 4
ANSWER_TOKENS = 40
BY_TIME = (
    0.3  # of the kills come after some time, perhaps while the model loads; the others after some tokens
)
GAP_MAX_S = 1.0
GAP_MAX_TOKENS = 60
SERVED_WITHIN_S = 60.0  # after a kill, on a machine that does other things as well
LOOK_EVERY_S = 0.02


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    crashes: int = 0
    resumed: int = 0
    answers: int = 0
    tokens: int = 0
    killed_at: float | None = None
    loading: bool = False  # the last kill hit a worker that was loading, and three of these are given up on
    back_after_s: list[float] = field(default_factory=list)


async def run(model: Path, kills: int, seed: int = 1) -> Tally:
    """Kill so many times; AssertionError when a promise is not kept."""
    engine = LlamaEngine(ModelFile(path=str(model), digest=b"d" * 32), slots=STREAMS)
    tally, rng = Tally(), random.Random(seed)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        engine.watch(lambda: _note_ready(engine, tally))
        stop = trio.Event()
        async with trio.open_nursery() as streams:
            for number in range(STREAMS):
                streams.start_soon(_stream, engine, number, tally, stop)
            for _ in range(kills):
                await _kill(engine, tally, rng)
            await _until(lambda: tally.killed_at is None)
            stop.set()
        nursery.cancel_scope.cancel()
    return tally


async def _kill(engine: LlamaEngine, tally: Tally, rng: random.Random) -> None:
    """At a random moment from now."""
    if rng.random() < BY_TIME and not tally.loading:
        await trio.sleep(rng.uniform(0, GAP_MAX_S))
    else:
        goal = tally.tokens + rng.randint(1, GAP_MAX_TOKENS)
        await _until(lambda: tally.tokens >= goal)
    await _until(lambda: engine.pid is not None)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    tally.kills += 1
    tally.loading = engine.state is not EngineState.READY
    tally.killed_at = trio.current_time()


async def _until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(SERVED_WITHIN_S):
        while not holds():
            await trio.sleep(LOOK_EVERY_S)


def _note_ready(engine: LlamaEngine, tally: Tally) -> None:
    if engine.state is EngineState.READY and tally.killed_at is not None:
        tally.back_after_s.append(trio.current_time() - tally.killed_at)
        tally.killed_at = None


async def _stream(engine: LlamaEngine, number: int, tally: Tally, stop: trio.Event) -> None:
    """One answer after another, each to its full length, however often it is broken off."""
    while not stop.is_set():
        ids: list[int] = []
        while len(ids) < ANSWER_TOKENS:
            try:
                await _attempt(engine, _job(number, tuple(ids)), ids, tally)
            except EngineCrashed:
                tally.crashes += 1
                tally.resumed += bool(ids)
            except Busy:  # no worker at this moment
                await trio.sleep(LOOK_EVERY_S)
        assert len(ids) == ANSWER_TOKENS, f"{len(ids)} tokens where {ANSWER_TOKENS} were asked for"
        tally.answers += 1


async def _attempt(engine: LlamaEngine, job: Job, ids: list[int], tally: Tally) -> None:
    """Run a job to its end, adding to `ids`; nothing may come after an error."""
    async with engine.run(job) as emitted:
        try:
            async for item in emitted:
                if isinstance(item, Piece):
                    assert item.first_index == len(ids), f"index {item.first_index} after {len(ids)} tokens"
                    ids.extend(item.ids)
                    tally.tokens += len(item.ids)
                if isinstance(item, End):
                    assert item.reason is FinishReason.LENGTH
                    assert item.usage.completion_tokens == ANSWER_TOKENS
        except EngineCrashed:
            assert [item async for item in emitted] == [], "something came after the error"
            raise


def _job(number: int, ids: tuple[int, ...]) -> Job:
    """A job that is to write on for its whole length: the model's own end of an answer is forbidden."""
    turn = Turn(role="user", content=f"Tell me story number {number}, a very long one. " * 5)
    biases = [{"token": token, "value": -100.0} for token in (0, 2)]  # SmolLM2's ends
    return Job(
        id=f"stream-{number}",
        wish=Wish(),
        turns=(turn,),
        sampling=msgspec.convert(
            {"temperature": 0.0, "max_tokens": ANSWER_TOKENS, "logit_bias": biases}, Sampling
        ),
        resume=ids,
    )


def main(arguments: list[str]) -> int:
    """Fetch the model if need be, kill, and say what happened."""
    found = subprocess.run(
        [sys.executable, "-m", "meshnode.models"], stdout=subprocess.PIPE, text=True, check=True
    )
    process.STEADY_S = 0.0  # every kill counts as the first: pauses after many in a row are another matter
    tally = trio.run(run, Path(found.stdout.strip()), int(arguments[0]) if arguments else 50)
    back = sorted(tally.back_after_s)
    print(
        f"{tally.kills} kills: {tally.crashes} runs broken off with one error each, {tally.resumed} of them"
        f" resumed in the middle, {tally.answers} whole answers; ready again after"
        f" {back[len(back) // 2]:.1f} s (median), {back[-1]:.1f} s (most)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
