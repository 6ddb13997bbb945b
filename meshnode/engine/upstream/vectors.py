"""What an upstream answers to a request for embeddings, read into Vectors. Pure."""

import math
import struct
from typing import Any

import msgspec

from meshnode.engine.upstream.answer import Counts
from meshnode.errors import EngineFailed
from meshnode.terms import Usage, Vector

DIMENSIONS_MAX = 16_384
NONSENSE = "The upstream server sent something that is no list of embeddings."


class Item(msgspec.Struct, frozen=True):
    """One embedding."""

    index: int
    embedding: list[float]


class Answer(msgspec.Struct, frozen=True):
    """All of them, in any order."""

    data: list[Item]
    usage: Counts | None = None


def read_vectors(decoded: Any, inputs: int) -> tuple[list[Vector], Usage]:
    """One vector of unit length for each input, in order, and what was counted. Raises EngineFailed."""
    try:
        answer = msgspec.convert(decoded, Answer)
    except msgspec.ValidationError:
        raise EngineFailed(NONSENSE) from None
    items = sorted(answer.data, key=lambda item: item.index)
    if [item.index for item in items] != list(range(inputs)):
        raise EngineFailed("The upstream server did not embed every input once.")
    counts = answer.usage or Counts()
    usage = Usage(prompt_tokens=max(0, counts.prompt_tokens or 0))
    return [Vector(item.index, _packed(item.embedding)) for item in items], usage


def _packed(values: list[float]) -> bytes:
    length = math.hypot(*values)
    if not (values and len(values) <= DIMENSIONS_MAX and 0 < length < math.inf):
        raise EngineFailed(NONSENSE)
    return struct.pack(f"<{len(values)}f", *(value / length for value in values))
