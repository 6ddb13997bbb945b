"""Embeddings as they come out of a run, made into numbers."""

import math
import struct

from meshnode.errors import Interrupted

FLOAT_BYTES = 4


def floats(values: bytes) -> tuple[float, ...]:
    """The numbers of a vector; raises Interrupted for bytes that are none, since another node may have sent them."""
    if not values or len(values) % FLOAT_BYTES:
        raise Interrupted("The node that served this sent something that is no vector.")
    numbers: tuple[float, ...] = struct.unpack(f"<{len(values) // FLOAT_BYTES}f", values)
    if not all(map(math.isfinite, numbers)):
        raise Interrupted("The node that served this sent a vector with values that are no numbers.")
    return numbers
