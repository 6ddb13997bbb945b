"""When those who wait would begin, from measured speeds and what those before them still have to do. Pure.

A fluid model: prompts are read at the measured speed, shared by those that read; answers are written at the speed of
one sequence beside the others (`score.speed_beside`). Every event is the end of somebody's prompt or answer.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from meshnode.routing.score import PROMPT_TPS_UNKNOWN, speed_beside
from meshnode.terms import ModelCard

DONE = 1e-6  # tokens: less than this is nothing


class Work(msgspec.Struct):
    """What one run still has to do, in tokens: `prefill` to read, then `decode` to write, on the model of `card`."""

    prefill: float
    decode: float
    card: ModelCard
    others: bool = False

    @property
    def prefill_s(self) -> float:
        """How long it would read, if it read alone."""
        return self.prefill / (self.card.prompt_tps or PROMPT_TPS_UNKNOWN)

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return self.prefill <= DONE and self.decode <= DONE


def starts_s(
    running: Iterable[Work],
    own: Sequence[Work],
    others: Sequence[Work],
    *,
    slots: int,
    others_slots: int,
) -> tuple[list[float], list[float]]:
    """In how many seconds each of those who wait begins: the owner's, who go first, and the others', in their order.

    At most `slots` run at once, and of others' work at most `others_slots`.
    """
    queues = (deque(own), deque(others))
    starts: tuple[list[float], list[float]] = ([], [])
    now, busy = 0.0, [_copy(work) for work in running if not work.over]
    while queues[0] or queues[1]:
        turn = _turn(queues, busy, slots, others_slots)
        if turn is not None:
            busy.append(_copy(queues[turn].popleft()))
            starts[turn].append(now)
        else:
            now += _to_next_event(busy)
        busy = [work for work in busy if not work.over]
    return starts


def _turn(
    queues: tuple[deque[Work], deque[Work]], busy: list[Work], slots: int, others_slots: int
) -> int | None:
    """From which queue somebody may begin now, if from any."""
    if len(busy) >= slots:
        return None
    if queues[0]:
        return 0
    return 1 if sum(work.others for work in busy) < others_slots else None


def _copy(work: Work) -> Work:
    return Work(work.prefill, work.decode, work.card, work.others)


def _to_next_event(busy: list[Work]) -> float:
    """Let them work until the first of them has read or written all; the seconds that takes."""
    reading = sum(work.prefill > DONE for work in busy)
    rates = [_rate(work, reading, len(busy)) for work in busy]
    lefts = [work.prefill if work.prefill > DONE else work.decode for work in busy]
    seconds = min(left / rate for left, rate in zip(lefts, rates, strict=True))
    for work, rate in zip(busy, rates, strict=True):
        if work.prefill > DONE:
            work.prefill -= rate * seconds
        else:
            work.decode -= rate * seconds
    return seconds


def _rate(work: Work, reading: int, running: int) -> float:
    """Tokens a second of one of them."""
    if work.prefill > DONE:
        return (work.card.prompt_tps or PROMPT_TPS_UNKNOWN) / reading
    return speed_beside(work.card, running - 1)
