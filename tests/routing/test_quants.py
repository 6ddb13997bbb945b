"""Quant tiers: from what a file really holds, and from what a request writes."""

import pytest

from meshnode.routing.quants import BY_FILE_TYPE, TIER_MAX, parse_tier, quant_of, tier_of_bits

NAMED = [
    (1, 16.0, "F16", 6),
    (7, 8.5, "Q8_0", 6),
    (18, 6.6, "Q6_K", 5),
    (17, 5.7, "Q5_K_M", 4),
    (15, 4.9, "Q4_K_M", 3),
    (3, 5.85, "Q4_1", 2),
    (11, 3.5, "Q3_K_S", 1),
    (24, 1.6, "IQ1_S", 0),
]
SUFFIXES = {
    "q8": 6,
    "q6": 5,
    "q5": 4,
    "q4": 2,
    "f16": 6,
    "Q4_K_M": 3,
    "q4-k-m": 3,
    "q4_0": 2,
    "5": 5,
    "t3": 3,
    "tier6": 6,
    "0": 0,
    "7": None,
    "best": None,
    "": None,
    "-1": None,
}


@pytest.mark.parametrize(("file_type", "bits", "name", "tier"), NAMED)
def test_the_file_type_names_the_quant(file_type: int, bits: float, name: str, tier: int) -> None:
    assert quant_of(file_type, bits)[:2] == (name, tier)


def test_a_label_that_the_tensors_contradict_does_not_raise_the_tier() -> None:
    assert quant_of(7, 4.5).tier == 3
    assert quant_of(1, 2.1).tier == 0


def test_more_bits_than_the_label_do_not_raise_the_tier_either() -> None:
    assert quant_of(2, 9.0).tier == 2


@pytest.mark.parametrize(
    ("bits", "tier"), [(16.0, 6), (6.6, 5), (5.6, 4), (4.5, 3), (4.0, 2), (2.9, 1), (2.0, 0)]
)
def test_an_unknown_type_goes_by_its_bits(bits: float, tier: int) -> None:
    assert quant_of(999, bits).tier == tier
    assert quant_of(None, bits).tier == tier == tier_of_bits(bits)


def test_nothing_known_is_the_lowest_tier() -> None:
    assert quant_of(None).tier == 0


@pytest.mark.parametrize(("text", "tier"), list(SUFFIXES.items()))
def test_suffixes(text: str, tier: int | None) -> None:
    assert parse_tier(text) == tier


def test_every_tier_is_within_bounds() -> None:
    assert all(0 <= quant.tier <= TIER_MAX for quant in BY_FILE_TYPE.values())
