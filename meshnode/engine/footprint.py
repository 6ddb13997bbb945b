"""How much memory a model takes here, computed from what its file says before anything is loaded.

What llama.cpp allocates, as its own log states it: the weights, 16-bit keys and values for every cell of the
context, room for the logits of one step, and the vocabulary; and what idle conversations take beside the cells. It
knows no files and no process.
"""

from typing import NamedTuple

from meshnode.engine.processor import repack_share

CONTEXT_AUTO_MAX = 8192  # tokens, when nobody says how many: the cells are allocated at once
CONTEXT_STEP = 256  # llama.cpp rounds up to this
CONTEXT_LEAST = 1024  # a model that cannot have this many, or its own if it has fewer, is of no use
STEP_TOKENS = 128  # of prompts in one batch, beside one token for each slot
CELL_ELEMENT_BYTES = 2  # f16
LOGIT_BYTES = 4  # f32
TOKEN_BYTES = 320  # of the vocabulary in memory, with its merges (measured: 160 to 350)
PROCESS_BYTES = (
    72 << 20
)  # Python, llama.cpp and its work buffers before a model is opened (measured: 42 to 60)


class Shape(NamedTuple):
    """The facts of a model file that its size in memory follows from.

    `kv_elements` are the elements of all layers' keys and values for one token; `trained_context` is in
    tokens, 0 when the file does not say.
    """

    weights_bytes: int
    kv_elements: int
    vocabulary: int
    trained_context: int = 0


def footprint_bytes(shape: Shape, *, context: int, slots: int) -> int:
    """What a worker takes with a context of so many tokens, in bytes."""
    return _fixed_bytes(shape, slots) + context * _cell_bytes(shape) + shelf_bytes(shape, context=context)


def shelf_bytes(shape: Shape, *, context: int) -> int:
    """What of this is for idle conversations: as much as the cells, so that each of them fits."""
    return context * _cell_bytes(shape)


def fitting_context(
    shape: Shape, *, slots: int, budget_bytes: int, wanted: int = 0, divided: bool = False
) -> int:
    """The context to open a model with, in tokens; 0 when it does not fit into the budget at all.

    A `wanted` one is taken as it is, up to what the model was trained for, or not at all; 0 gives the most
    that is trained for, that fits, and that is sensible. In a `divided` one that holds for each slot's part.
    """
    trained = (shape.trained_context or CONTEXT_AUTO_MAX) * (slots if divided else 1)
    most = min(wanted or CONTEXT_AUTO_MAX, trained)
    if footprint_bytes(shape, context=most, slots=slots) <= budget_bytes:
        return most
    if wanted:
        return 0
    left = budget_bytes - _fixed_bytes(shape, slots)
    fits = left // max(1, 2 * _cell_bytes(shape)) // CONTEXT_STEP * CONTEXT_STEP
    return fits if fits >= min(CONTEXT_LEAST, most) else 0


def _cell_bytes(shape: Shape) -> int:
    return shape.kv_elements * CELL_ELEMENT_BYTES


def _fixed_bytes(shape: Shape, slots: int) -> int:
    """Everything but the cells."""
    weights = int(shape.weights_bytes * (1 + repack_share()))
    rows = STEP_TOKENS + 2 * slots  # those that a step computes, and those whose logits are kept
    return weights + rows * shape.vocabulary * LOGIT_BYTES + shape.vocabulary * TOKEN_BYTES + PROCESS_BYTES
