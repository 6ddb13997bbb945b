"""How good a model is at a task, for requests that leave the model open: by published scores, else by its size.

The figures are the publishers' own for the instruction-tuned weights, in per cent: IFEval for chat, HumanEval for
code, GSM8K for reasoning. They compare models roughly, and only so are they used: a point is worth a fraction of a
second. The owner's `[[ratings]]` come before them.
"""

import math
import re
from collections.abc import Iterable

from meshnode.terms import ModelCard, Rating

TASKS = ("chat", "code", "reason")
GENERAL = "chat"  # what a request is for that does not say
POINT_S = 0.25  # how long a caller who leaves the model open waits for one point more
LOST_FIRST = 0.1  # points that the best quants lose; from tier to tier perplexity says three times as much
LOST_TIMES = 3
TIER_BEST = 6
SIZE_POINTS = 30.0  # of a model of SIZE_PARAMETERS that nobody has rated
SIZE_PARAMETERS = 135e6
DOUBLING_POINTS = 8.5  # what IFEval grows by from smollm2:135m to llama3.1:70b, for twice the parameters
SIZE_POINTS_MAX = 88.0
UNKNOWN_PARAMETERS = 1e8

_SIZE = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([kmbt])")
_SCALE = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_SMOLLM2 = "model card of SmolLM2-Instruct, Hugging Face, 2024"
_QWEN25 = "Qwen2.5 Technical Report, arXiv:2412.15115, 2024"
_GEMMA3 = "Gemma 3 Technical Report, arXiv:2503.19786, 2025"
_LLAMA31 = "model card of Llama 3.1, Meta, 2024"
_LLAMA32 = "model card of Llama 3.2, Meta, 2024"

PUBLISHED = (
    Rating(name="smollm2:135m", chat=29.9, reason=1.4, source=_SMOLLM2),
    Rating(name="smollm2:360m", chat=41.0, reason=7.43, source=_SMOLLM2),
    Rating(name="smollm2:1.7b", chat=56.7, reason=48.2, source=_SMOLLM2),
    Rating(name="gemma3:270m", chat=51.2, source="model card of Gemma 3 270M, Google, 2025"),
    Rating(name="gemma3:1b", chat=80.2, code=41.5, reason=62.8, source=_GEMMA3),
    Rating(name="gemma3:4b", chat=90.2, code=71.3, reason=89.2, source=_GEMMA3),
    Rating(name="gemma3:12b", chat=88.9, code=85.4, reason=94.4, source=_GEMMA3),
    Rating(name="gemma3:27b", chat=90.4, code=87.8, reason=95.9, source=_GEMMA3),
    Rating(name="qwen2.5:0.5b", chat=27.9, code=35.4, reason=49.6, source=_QWEN25),
    Rating(name="qwen2.5:1.5b", chat=42.5, code=61.6, reason=73.2, source=_QWEN25),
    Rating(name="qwen2.5:3b", chat=58.2, code=74.4, reason=86.7, source=_QWEN25),
    Rating(name="qwen2.5:7b", chat=71.2, code=84.8, reason=91.6, source=_QWEN25),
    Rating(name="qwen2.5:14b", chat=81.0, code=83.5, reason=94.8, source=_QWEN25),
    Rating(name="qwen2.5:32b", chat=79.5, code=88.4, reason=95.9, source=_QWEN25),
    Rating(name="qwen2.5:72b", chat=84.1, code=86.6, reason=95.8, source=_QWEN25),
    Rating(name="llama3.2:1b", chat=59.5, reason=44.4, source=_LLAMA32),
    Rating(name="llama3.2:3b", chat=77.4, reason=77.7, source=_LLAMA32),
    Rating(name="llama3.1:8b", chat=80.4, code=72.6, reason=84.5, source=_LLAMA31),
    Rating(name="llama3.1:70b", chat=87.5, code=80.5, reason=95.1, source=_LLAMA31),
)


class Qualities:
    """The points of models; `own` ratings come before the published ones, task by task."""

    def __init__(self, own: Iterable[Rating] = ()) -> None:
        self._points: dict[tuple[str, str], float] = {}
        for rating in (*PUBLISHED, *own):
            given = ((task, getattr(rating, task)) for task in TASKS)
            self._points |= {
                (rating.name.lower(), task): points for task, points in given if points is not None
            }

    def points(self, card: ModelCard, task: str = "") -> float:
        """How good a model in its quantisation is at a task, chat if it is empty; below 0 for a ruined one."""
        whole = self._points.get((card.name.lower(), task or GENERAL))
        return (points_of_size(card.size) if whole is None else whole) - points_lost(card.tier)

    def worth_s(self, card: ModelCard, task: str = "") -> float:
        """The same in seconds that a caller who leaves the model open would wait for it."""
        return POINT_S * self.points(card, task)


def points_of_size(size: str) -> float:
    """What a model of this size may be expected to score."""
    doublings = math.log2(max(parameters(size), 1e6) / SIZE_PARAMETERS)
    return min(SIZE_POINTS + DOUBLING_POINTS * doublings, SIZE_POINTS_MAX)


def points_lost(tier: int) -> float:
    """What a quantisation costs."""
    return LOST_FIRST * float(LOST_TIMES ** (TIER_BEST - tier))


def parameters(size: str) -> float:
    """How many parameters a size such as `135m`, `8b` or `8x7b` names; UNKNOWN_PARAMETERS when it names none."""
    match = _SIZE.fullmatch(size.strip().lower())
    if match is None:
        return UNKNOWN_PARAMETERS
    experts, number, unit = match.groups()
    return int(experts or 1) * float(number) * _SCALE[unit]
