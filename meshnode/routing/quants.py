"""Quantisations and their quality tiers, 0 to 6. It knows published figures, not files and not nodes.

A quantisation is identified by GGUF's `general.file_type` and the bits per weight that its tensors really
have, never by a file's name. The tiers follow llama.cpp's published perplexity tables for Llama-3-8B: within
a tier the loss is alike, from one tier to the next it about triples.
"""

from typing import NamedTuple

TIER_MAX = 6
BITS_SLACK = 0.9  # embeddings and norms move the average; a tenth below the nominal bits is another quant


class Quant(NamedTuple):
    """A quantisation: its usual name, its tier, and its nominal bits per weight."""

    name: str
    tier: int
    bits: float


UNKNOWN = Quant("unknown", 0, 0.0)

BY_FILE_TYPE: dict[int, Quant] = {
    0: Quant("F32", 6, 32.0),
    1: Quant("F16", 6, 16.0),
    2: Quant("Q4_0", 2, 4.5),
    3: Quant("Q4_1", 2, 5.0),
    7: Quant("Q8_0", 6, 8.5),
    8: Quant("Q5_0", 3, 5.5),
    9: Quant("Q5_1", 4, 6.0),
    10: Quant("Q2_K", 1, 2.9),
    11: Quant("Q3_K_S", 1, 3.5),
    12: Quant("Q3_K_M", 2, 3.9),
    13: Quant("Q3_K_L", 2, 4.2),
    14: Quant("Q4_K_S", 3, 4.6),
    15: Quant("Q4_K_M", 3, 4.8),
    16: Quant("Q5_K_S", 4, 5.5),
    17: Quant("Q5_K_M", 4, 5.7),
    18: Quant("Q6_K", 5, 6.6),
    19: Quant("IQ2_XXS", 0, 2.1),
    20: Quant("IQ2_XS", 0, 2.3),
    21: Quant("Q2_K_S", 0, 2.7),
    22: Quant("IQ3_XS", 1, 3.3),
    23: Quant("IQ3_XXS", 1, 3.1),
    24: Quant("IQ1_S", 0, 1.6),
    25: Quant("IQ4_NL", 3, 4.5),
    26: Quant("IQ3_S", 1, 3.4),
    27: Quant("IQ3_M", 1, 3.7),
    28: Quant("IQ2_S", 0, 2.5),
    29: Quant("IQ2_M", 1, 2.7),
    30: Quant("IQ4_XS", 3, 4.3),
    31: Quant("IQ1_M", 0, 1.8),
    32: Quant("BF16", 6, 16.0),
    36: Quant("TQ1_0", 0, 1.7),
    37: Quant("TQ2_0", 0, 2.1),
    38: Quant("MXFP4", 3, 4.25),
    39: Quant("NVFP4", 3, 4.5),
}
"""llama.cpp's `llama_ftype` numbers."""

BY_NAME: dict[str, Quant] = {quant.name.lower(): quant for quant in BY_FILE_TYPE.values()}

LEAST_TIER_OF_BITS = {"f32": 6, "f16": 6, "q8": 6, "q6": 5, "q5": 4, "q4": 2, "q3": 1, "q2": 1}
"""What `@q4` asks for: the least tier among the usual quants of that many bits."""


def quant_of(file_type: int | None, bits_per_weight: float = 0.0) -> Quant:
    """The quantisation of a model file.

    `file_type` is GGUF's `general.file_type`, None when the file has none; `bits_per_weight` is computed from
    the tensors, 0 when not known. A file that has clearly fewer bits than its type claims gets the tier of
    its bits: the label is the publisher's word, the tensors are what runs.
    """
    named = BY_FILE_TYPE.get(file_type) if file_type is not None else None
    if named is None:
        return Quant(UNKNOWN.name, tier_of_bits(bits_per_weight), bits_per_weight)
    if 0 < bits_per_weight < named.bits * BITS_SLACK:
        return Quant(named.name, min(named.tier, tier_of_bits(bits_per_weight)), bits_per_weight)
    return named


def tier_of_bits(bits_per_weight: float) -> int:
    """The tier that this many bits per weight give at best use; 0 when not known."""
    floors = ((8.0, 6), (6.3, 5), (5.4, 4), (4.25, 3), (3.7, 2), (2.6, 1))
    return next((tier for floor, tier in floors if bits_per_weight >= floor), 0)


def parse_tier(text: str) -> int | None:
    """The least tier that a suffix asks for, None if it is none of the forms.

    `3` and `t3` are tiers; `q4_k_m` is the tier of that quantisation; `q4` is satisfied by any usual
    quantisation of four bits.
    """
    word = text.strip().lower().replace("-", "_")
    digits = word.removeprefix("tier").removeprefix("t")
    if digits.isascii() and digits.isdigit():
        return int(digits) if int(digits) <= TIER_MAX else None
    if word in BY_NAME:
        return BY_NAME[word].tier
    return LEAST_TIER_OF_BITS.get(word)
