"""What idle sequences have computed, kept beside the cache as bytes and found again by its tokens.

Idle cells in the cache are not free: everybody who computes looks at every cell's mask. SmolLM2-135M, two threads,
16 answers beside 6000 idle cells: 155 tokens/s and 1.4 s to the first token, without them 205 and 1.0. Pure: it
knows neither llama.cpp nor what is in the bytes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from meshnode.engine.worker.prefix import common_length


class Kept(NamedTuple):
    """The state of a sequence of `scope` that holds these tokens.

    Its first `least` tokens and more can be gone on from; fewer cannot, because a window has moved on.
    """

    scope: bytes
    tokens: list[int]
    least: int
    state: Any  # a buffer


class Found(NamedTuple):
    """The `length` first tokens of what was looked for are in `kept`."""

    length: int
    kept: Kept


class Shelf:
    """States of at most `room` bytes in all; the least recently used make room."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.used = 0
        self._kept: list[Kept] = []  # least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, kept: Kept) -> None:
        """Keep one more. What is too large by itself is not kept, nor is it worth emptying the shelf for."""
        if len(kept.state) > self.room:
            return
        while self.used + len(kept.state) > self.room:
            self.remove(self._kept[0])
        self._kept.append(kept)
        self.used += len(kept.state)

    def find(self, scope: bytes, tokens: Sequence[int], *, whole: bool = False) -> Found | None:
        """The longest beginning of `tokens` that is here, of this scope only; with `whole`, as a whole."""
        best: Found | None = None
        for kept in self._kept:
            length = common_length(kept.tokens, tokens) if scope and kept.scope == scope else 0
            least = len(kept.tokens) if whole else max(1, kept.least)
            if length >= least and (best is None or length > best.length):
                best = Found(length, kept)
        return best

    def remove(self, kept: Kept) -> None:
        """Keep it no longer."""
        self._kept = [each for each in self._kept if each is not kept]
        self.used -= len(kept.state)

    def clear(self) -> None:
        """Keep nothing."""
        self._kept, self.used = [], 0
