"""How fast the loaded model really is here: a few short runs of dummy tokens at first, then real work.

It knows llama.cpp only through the model, and no runs.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from meshnode.engine.worker.frames import Measured
from meshnode.engine.worker.llama import CHUNK_TOKENS, LONG_TOKENS, Batch, Model
from meshnode.errors import EngineFailed

BUDGET_S = 0.3  # for each of the four; a slow model gets one step of each
PROMPT_CHUNKS = 3
ANSWER_TOKENS = 32
BATCH_STEPS = 8
READING_MIN_TOKENS = CHUNK_TOKENS // 2  # a step that reads fewer says little about reading
WEIGHT = 0.1  # of one step in the running average
MOVED = 0.1  # of a speed, before it is worth telling
PERIOD_S = 2.0  # at least, between two tellings
LONG_S = 1.0  # that a step may take for which few answers wait: so long newcomers, and news of progress, wait


class Speed(NamedTuple):
    """Tokens per second for one sequence, and how much the total grows when many run at once."""

    prompt_tps: float
    generate_tps: float
    batch_gain: float


def measure(model: Model) -> Speed:
    """Measure, and leave the cache empty. Raises EngineFailed when the model cannot compute at all."""
    _feed(model, 1, 0)  # the first decode sets things up, and would be counted
    prompt = _rate(lambda _step: _feed_chunk(model), PROMPT_CHUNKS)
    single = _rate(lambda step: _feed(model, 1, step), ANSWER_TOKENS)
    half, every = (_together(model, slots) for slots in (max(1, model.slots // 2), model.slots))
    _empty(model)
    return Speed(prompt, single, max(single, half, every) / single)


def _together(model: Model, slots: int) -> float:
    """Tokens per second of so many sequences in all."""
    return _rate(lambda step: _feed(model, slots, step), BATCH_STEPS)


def _rate(compute: Callable[[int], int], steps: int) -> float:
    """Tokens per second over at most `steps` steps."""
    started = time.perf_counter()
    done = 0
    for step in range(steps):
        done += compute(step)
        if time.perf_counter() - started > BUDGET_S:
            break
    return done / (time.perf_counter() - started)


def _feed_chunk(model: Model) -> int:
    """A chunk of a prompt, from the start of a sequence."""
    model.drop(0)
    batch = model.new_batch()
    tokens = [_dummy(model, place) for place in range(min(CHUNK_TOKENS, model.context))]
    batch.add(0, 0, tokens, last_logits=True)
    return _compute(model, batch)


def _feed(model: Model, slots: int, position: int) -> int:
    """The token at this position of each of the first `slots` sequences; position 0 starts them anew."""
    if position == 0:
        _empty(model)
    batch = model.new_batch()
    for slot in range(slots):
        batch.add(slot, position, [_dummy(model, position)], last_logits=True)
    return _compute(model, batch)


def _compute(model: Model, batch: Batch) -> int:
    if status := model.decode(batch):
        raise EngineFailed(f"llama.cpp loads this model but cannot compute with it (llama_decode: {status})")
    return len(batch)


def _empty(model: Model) -> None:
    for slot in range(model.slots):
        model.drop(slot)


def _dummy(model: Model, number: int) -> int:
    """Some ordinary token; which one does not matter to the speed."""
    return (1000 + number * 7) % model.vocabulary


class Pace:
    """Keeps a speed current from the steps of real work, each of which counts as one kind of work or none."""

    def __init__(self, speed: Speed, slots: int) -> None:
        self._many = slots // 2 + 1  # answers at once, from which on it counts as many
        self._told = speed
        self._told_s = 0.0
        self._prompt, self._single, self._gain = speed

    @property
    def chunk(self) -> int:
        """How many tokens of prompts to read in a step for which few answers wait."""
        return max(CHUNK_TOKENS, min(LONG_TOKENS, int(self._prompt * LONG_S)))

    def note(self, read: int, answering: int, started_s: float, ended_s: float) -> list[Measured]:
        """A step of so many tokens took this time; what is to be told for it, if anything."""
        tps = (read + answering) / max(ended_s - started_s, 1e-6)
        if not answering and read >= READING_MIN_TOKENS:
            self._prompt += WEIGHT * (tps - self._prompt)
        elif not read and answering == 1:
            self._single += WEIGHT * (tps - self._single)
        elif not read and answering >= self._many:
            self._gain += WEIGHT * (max(1.0, tps / self._single) - self._gain)
        return self._tell(ended_s)

    def _tell(self, now_s: float) -> list[Measured]:
        speed = Speed(self._prompt, self._single, self._gain)
        moved = any(abs(new - old) > MOVED * old for new, old in zip(speed, self._told, strict=True))
        if not moved or now_s - self._told_s < PERIOD_S:
            return []
        self._told, self._told_s = speed, now_s
        return [Measured(*speed)]
