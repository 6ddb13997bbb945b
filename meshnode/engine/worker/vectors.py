"""Jobs that ask for vectors: one text a turn of the loop, between the steps of those who are answering."""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from meshnode.engine.worker.frames import Embedded, Ended, Event
from meshnode.terms import FinishReason


class Embeds(Protocol):
    """What turns tokens into a vector."""

    def embed(self, tokens: list[int]) -> bytes:
        """The vector, as little-endian 32-bit floats. Raises MeshError."""
        ...


@dataclass
class _Texts:
    number: int
    tokens: list[list[int]]
    done: int = 0


class Vectors:
    """The embedding jobs of one model, the oldest first."""

    def __init__(self, embedder: Embeds) -> None:
        self._embedder = embedder
        self._waiting: deque[_Texts] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> int:
        """The number of the run whose turn it is."""
        return self._waiting[0].number

    def add(self, number: int, tokens: list[list[int]]) -> None:
        """A run with these texts."""
        self._waiting.append(_Texts(number, tokens))

    def cancel(self, number: int) -> None:
        """Nothing more is wanted for a run."""
        self._waiting = deque(texts for texts in self._waiting if texts.number != number)

    def step(self) -> list[Event]:
        """Embed one text, after which the next job has its turn. Raises MeshError."""
        texts = self._waiting[0]
        values = self._embedder.embed(texts.tokens[texts.done])
        events: list[Event] = [Embedded(texts.number, texts.done, values)]
        texts.done += 1
        self._waiting.rotate(-1)
        if texts.done == len(texts.tokens):
            self._waiting.remove(texts)
            events.append(Ended(texts.number, FinishReason.STOP, sum(map(len, texts.tokens)), 0))
        return events
