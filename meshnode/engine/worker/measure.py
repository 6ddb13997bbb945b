"""How fast the loaded model really is here: three short runs of dummy tokens, well under two seconds."""

import time
from collections.abc import Callable
from typing import NamedTuple

from meshnode.engine.worker.llama import CHUNK_TOKENS, Batch, Model
from meshnode.errors import EngineFailed

BUDGET_S = 0.4  # for each of the three; a slow model gets one step of each
PROMPT_CHUNKS = 3
ANSWER_TOKENS = 32
BATCH_STEPS = 8


class Speed(NamedTuple):
    """Tokens per second for one sequence, and how much the total grows with all slots busy."""

    prompt_tps: float
    generate_tps: float
    batch_gain: float


def measure(model: Model) -> Speed:
    """Measure, and leave the cache empty. Raises EngineFailed when the model cannot compute at all."""
    _feed(model, 1, 0)  # the first decode sets things up, and would be counted
    prompt = _rate(lambda _step: _feed_chunk(model), PROMPT_CHUNKS)
    single = _rate(lambda step: _feed(model, 1, step), ANSWER_TOKENS)
    together = _rate(lambda step: _feed(model, model.slots, step), BATCH_STEPS)
    _empty(model)
    return Speed(prompt, single, max(1.0, together / single))


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
    batch.add(0, 0, [_dummy(model, place) for place in range(CHUNK_TOKENS)], last_logits=True)
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
