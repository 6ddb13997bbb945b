"""What a person wants to know of a model file, worked out from its header. Pure."""

import re

import msgspec

from meshnode.models.gguf import Header
from meshnode.routing.quants import quant_of

NAME_MAX_CHARS = 64
LICENCE_MAX_CHARS = 64


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A model by its own header.

    `quant` is by the file's type and the bits its tensors really have, never by its name; `tier` 0 to 6;
    `context` is what it was trained for, in tokens; `template` whether it says how to lay out a chat; `licence`
    as its publisher put it, empty if they did not; `kv_elements` are all layers' keys and values for one token.
    """

    architecture: str = ""
    parameters: int = 0
    quant: str = ""
    tier: int = 0
    bits_per_weight: float = 0.0
    context: int = 0
    layers: int = 0
    vocabulary: int = 0
    template: bool = False
    licence: str = ""
    weights_bytes: int = 0
    kv_elements: int = 0


def facts_of(header: Header, licence: str = "") -> ModelFacts:
    """The facts; `licence` is what is known of it from elsewhere."""
    quant = quant_of(header.file_type, header.bits_per_weight)
    return ModelFacts(
        architecture=header.architecture,
        parameters=header.parameters,
        quant=quant.name,
        tier=quant.tier,
        bits_per_weight=round(header.bits_per_weight, 2),
        context=header.context_length,
        layers=header.block_count,
        vocabulary=header.vocabulary,
        template=header.has_template,
        licence=(licence or header.facts.get("general.license", ""))[:LICENCE_MAX_CHARS],
        weights_bytes=header.weights_bytes,
        kv_elements=sum(header.kv_heads) * (header.key_length + header.value_length),
    )


def name_of(header: Header, otherwise: str) -> str:
    """What to call a model: `family:size` by its own header, else after its file."""
    basename, size = header.facts.get("general.basename"), header.facts.get("general.size_label")
    return tidy_name(f"{basename}:{size}" if basename and size else otherwise)


def tidy_name(text: str) -> str:
    """A name of plain characters that is easy to type; what a header says is a stranger's word."""
    words = (re.sub(r"[^a-z0-9._-]+", "-", part).strip("-") for part in text.lower().split(":", 1))
    return ":".join(word for word in words if word)[:NAME_MAX_CHARS] or "model"
