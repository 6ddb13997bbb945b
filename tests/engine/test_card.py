"""A card says what the file and the measurements say."""

import pytest

from meshnode.engine.card import build_card
from meshnode.engine.worker.frames import Ready


def ready(**changes):
    facts = {
        "metadata": {"general.basename": "smollm2", "general.size_label": "135M"},
        "file_type": 3,
        "parameters": 134_515_008,
        "weights_bytes": 96_576_768,
        "context": 8192,
        "slots": 8,
        "threads": 2,
        "prompt_tps": 450.04,
        "generate_tps": 114.06,
        "batch_gain": 1.499,
    }
    return Ready(**facts | changes)


def test_the_embedded_model():
    card = build_card(ready(), name="smollm2:135m", digest=b"d" * 32)
    assert (card.name, card.family, card.size) == ("smollm2:135m", "smollm2", "135m")
    assert (card.quant, card.tier, card.context, card.slots) == ("Q4_1", 2, 8192, 8)
    assert (card.prompt_tps, card.generate_tps, card.batch_gain) == (450.0, 114.1, 1.5)
    assert card.digest == b"d" * 32


def test_a_file_without_a_name_is_named_after_its_facts():
    assert build_card(ready(), name="", digest=b"").name == "smollm2:135m"
    bare = build_card(
        ready(metadata={"general.name": "My Model!"}, parameters=7_240_000_000), name="", digest=b""
    )
    assert bare.name == "my-model:7.24b"


@pytest.mark.parametrize("file_type", [-1, 9999])
def test_an_unknown_file_type_gets_its_tier_from_its_bits(file_type):
    card = build_card(ready(file_type=file_type), name="a:b", digest=b"")
    assert (card.quant, card.tier) == ("unknown", 4)
