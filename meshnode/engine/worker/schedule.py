"""What each run computes in a step: an answer's next token, or so many tokens of a prompt. Pure; it computes nothing.

A step that reads much delays everybody who answers and helps everybody who waits. So while more prompts wait than
answers are written, a longer `chunk` of prompts is read for each token of the answers, and CHUNK_TOKENS otherwise.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from meshnode.engine.worker.llama import CHUNK_TOKENS


class Run(Protocol):
    """What this needs of one."""

    @property
    def left(self) -> int:
        """Tokens that it has not computed yet."""
        ...


R = TypeVar("R", bound=Run)
Takes = list[tuple[R, int]]  # who computes how many tokens


class Together:
    """For runs that share all cells: whatever is computed in one step goes through the weights at once."""

    def takes(self, reading: Sequence[R], answering: Sequence[R], chunk: int) -> Takes[R]:
        """Everybody's next token, and beside them prompts. The oldest run comes first in both."""
        room = chunk if len(reading) > len(answering) else CHUNK_TOKENS
        return [*_next_tokens(answering), *_shares(reading, room)]


class OneByOne:
    """For runs with cells of their own: they go through the weights at once only as far as they are equally long.

    Prompts hardly ever are, so many in one step would cost a small one for every length among them. While more wait
    than answer each is read by itself, and answered the sooner; then all answers go on by a token.
    """

    def __init__(self) -> None:
        self._read = 0  # tokens of prompts since the answers went on

    def takes(self, reading: Sequence[R], answering: Sequence[R], chunk: int) -> Takes[R]:
        """One prompt, or everybody's next token, with prompts beside them if few wait."""
        if len(reading) <= len(answering):
            self._read = 0
            return [*_next_tokens(answering), *_shares(reading, CHUNK_TOKENS)]
        if self._read and self._read + min(run.left for run in reading) > chunk:
            self._read = 0
            if answering:
                return _next_tokens(answering)
        run, take = self._next(reading, chunk)
        self._read += take
        return [(run, take)]

    def _next(self, reading: Sequence[R], chunk: int) -> tuple[R, int]:
        """The oldest at first, so that none waits for ever; then whoever has the least left."""
        if self._read:
            run = min(reading, key=lambda each: each.left)
            return run, run.left
        return reading[0], min(reading[0].left, chunk if len(reading) == 1 else chunk // 2)


def _next_tokens(answering: Sequence[R]) -> Takes[R]:
    return [(run, 1) for run in answering]


def _shares(reading: Sequence[R], room: int) -> Iterator[tuple[R, int]]:
    """How many tokens of its prompt each run reads in this step.

    The oldest has half of the room, the rest goes to whoever has the least left: so a short prompt is soon
    read beside a long one, prompts of equal length are read one after the other, and none waits for ever.
    """
    if not reading:
        return
    takes = {id(reading[0]): min(reading[0].left, room if len(reading) == 1 else room // 2)}
    room -= takes[id(reading[0])]
    for run in sorted(reading, key=lambda each: each.left):
        more = min(run.left - takes.get(id(run), 0), room)
        takes[id(run)] = takes.get(id(run), 0) + more
        room -= more
    yield from ((run, takes[id(run)]) for run in reading if takes[id(run)])
