"""How fast an upstream's model really is here: speeds of real answers, each measured while it ran alone. Pure."""

import statistics
from collections import deque

import msgspec

from meshnode.engine.upstream.answer import Timings
from meshnode.terms import Usage

SAMPLES = 5  # the median of so many: one answer that waited for the model to load does not count
PROMPT_TOKENS_MIN = 32  # fewer tell of the connection more than of the model
ANSWER_TOKENS_MIN = 8
SECONDS_MIN = 0.01
MOVED = 0.2  # a change by less than this is not worth telling the mesh


class Watch(msgspec.Struct):
    """When a run was sent, and when its first and last pieces came, in seconds of any one clock."""

    sent: float = 0.0
    first: float = 0.0
    last: float = 0.0
    alone: bool = True

    def saw(self, now: float) -> None:
        """A piece has come."""
        self.first = self.first or now
        self.last = now


class Pace:
    """The speeds of one model, in tokens per second for one answer; 0 while not measured."""

    def __init__(self) -> None:
        self.prompt_tps = 0.0
        self.generate_tps = 0.0
        self._prompts: deque[float] = deque(maxlen=SAMPLES)
        self._answers: deque[float] = deque(maxlen=SAMPLES)

    def note(self, watch: Watch, usage: Usage, told: Timings) -> bool:
        """Take a finished run into account; True if the speeds are worth telling anew."""
        if not watch.alone:
            return False
        read = usage.prompt_tokens - usage.cached_tokens
        if read >= PROMPT_TOKENS_MIN:
            self._prompts.append(told.prompt_per_second or _rate(read, watch.first - watch.sent))
        if usage.completion_tokens >= ANSWER_TOKENS_MIN:
            measured = _rate(usage.completion_tokens - 1, watch.last - watch.first)
            self._answers.append(told.predicted_per_second or measured)
        return self._update()

    def _update(self) -> bool:
        before = (self.prompt_tps, self.generate_tps)
        now = (_median(self._prompts), _median(self._answers))
        if not any(abs(new - old) > MOVED * old for new, old in zip(now, before, strict=True)):
            return False
        self.prompt_tps, self.generate_tps = now
        return True


def _rate(tokens: int, seconds: float) -> float:
    return tokens / max(seconds, SECONDS_MIN)


def _median(samples: deque[float]) -> float:
    return round(statistics.median(samples), 1) if samples else 0.0
