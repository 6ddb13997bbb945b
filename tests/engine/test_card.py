"""A card says what the file and the measurements say."""

import pytest

from meshnode.engine.card import build_card, refreshed
from meshnode.engine.worker.frames import Measured, Ready
from meshnode.trust.weights import sign
from meshwire.signing import Signer


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


def test_who_signed_the_weights_is_on_it():
    statement = sign(Signer(b"a" * 32), b"d" * 32, 5)
    card = build_card(ready(), name="", digest=b"d" * 32, statement=statement)
    assert (card.signer, card.signed_at_ms, card.signature) == (statement.signer, 5, statement.signature)


@pytest.mark.parametrize("file_type", [-1, 9999])
def test_an_unknown_file_type_gets_its_tier_from_its_bits(file_type):
    card = build_card(ready(file_type=file_type), name="a:b", digest=b"")
    assert (card.quant, card.tier) == ("unknown", 4)


@pytest.mark.parametrize(
    ("measured", "watts", "expected"),
    [
        (Measured(500.0, 120.0, 1.6), 0.0, None),  # nothing moved by a fifth
        (Measured(500.0, 50.0, 0.0), 0.0, (500.0, 50.0, 1.5, 0.0)),  # then all that was measured counts
        (Measured(0.0, 0.0, 3.0), 0.0, (450.0, 114.1, 3.0, 0.0)),  # 0 was not measured anew
        (Measured(0.0, 0.0, 0.5), 0.0, (450.0, 114.1, 1.0, 0.0)),  # more at once is never less
        (Measured(0.0, 0.0, 0.0), 40.0, (450.0, 114.1, 1.5, 40.0)),
    ],
)
def test_a_card_follows_what_is_measured_when_it_has_moved(measured, watts, expected):
    card = build_card(ready(), name="smollm2:135m", digest=b"d" * 32)
    now = refreshed(card, measured, watts)
    if expected is None:
        assert now is card
    else:
        assert (now.prompt_tps, now.generate_tps, now.batch_gain, now.watts) == expected


@pytest.mark.parametrize(
    ("file_type", "parameters", "weights_bytes", "quant", "tier"),
    [
        (3, 134_515_008, 96_576_768, "Q4_1", 2),  # SmolLM2-135M, as published
        (15, 268_098_176, 246_587_904, "Q4_K_M", 3),  # gemma3-270m: its embeddings are of more bits
        (1, 134_515_008, 75_000_000, "F16", 3),  # a label that its tensors belie
    ],
)
def test_the_tier_is_that_of_the_tensors(file_type, parameters, weights_bytes, quant, tier):
    facts = {"file_type": file_type, "parameters": parameters, "weights_bytes": weights_bytes}
    card = build_card(ready(**facts), name="a:b", digest=b"")
    assert (card.quant, card.tier) == (quant, tier)
