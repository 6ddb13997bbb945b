"""From what an upstream says of its models to the cards that a node advertises. Pure.

A card's digest is not that of the weights, which cannot be seen from outside: it is the SHA-256 of a tag, the
upstream's URL and the model's id, so that it names this model of this server and no other.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from meshnode.routing.quants import BY_NAME, UNKNOWN, Quant
from meshnode.terms import Feature, ModelCard

CONTEXT_UNTOLD = 4096
CONTEXT_MAX = 1 << 24
NAME_MAX_CHARS = 48
MODEL = "model"  # for an id that holds no name
DIGEST_TAG = b"meshnode upstream model\0"

# What these servers say their models are owned by.
OLLAMA, LM_STUDIO, LLAMA_SERVER = "library", "organization_owner", "llamacpp"
LLAMA_CPP_PYTHON, VLLM = "me", "vllm"

_ALL = (Feature.TOOLS, Feature.JSON_SCHEMA, Feature.LOGPROBS)
FEATURES = {
    LLAMA_SERVER: _ALL,
    VLLM: _ALL,
    OLLAMA: (Feature.JSON_SCHEMA,),  # tools are the model's matter, and it tells them
    LM_STUDIO: (Feature.TOOLS, Feature.JSON_SCHEMA),
    LLAMA_CPP_PYTHON: (Feature.LOGPROBS,),  # tools and schemas only with some of its chat formats
}
"""What a server can do, by the `owned_by` that it lists its models with; all of it for one not known here."""

_NEUTRAL = frozenset(("instruct", "it", "chat", "gguf", "hf", "latest"))
_QUANT = re.compile(r"[-_.](i?q\d(?:_[a-z0-9]+)*|bf16|fp?16|fp?32|fp8|mxfp4|nvfp4|awq|gptq)$")
_SIZE = re.compile(r"[-_.]((?:\d+x)?\d+(?:\.\d+)?[bm])(?=$|[-_.])")
_PART = re.compile(r"(-\d{5}-of-\d{5})?(\.gguf)?$")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a server told of one model. Zero, and empty, is what it did not tell; `tools` None likewise."""

    id: str
    owner: str = ""
    context: int = 0
    quant: str = ""
    parameters: int = 0
    tools: bool | None = None
    chats: bool = True
    embeds: bool = False


class Offer(NamedTuple):
    """A model as the upstream knows it, and as the mesh does."""

    id: str
    owner: str
    card: ModelCard


class Name(NamedTuple):
    """A model's name in the mesh's way; `quant` is what the id says of it, if it does."""

    family: str
    size: str
    quant: str

    @property
    def text(self) -> str:
        """`family:size`, or the family alone where no size is known."""
        return f"{self.family}:{self.size}" if self.size else self.family


def make_offers(facts: Iterable[Facts], *, url: str, slots: int, context: int, quant: str) -> list[Offer]:
    """One card for each model. `context` beats what the server told; `quant` fills in what it did not.

    Two ids that come to the same name keep their own, and one that still is another's is left out.
    """
    offers: dict[str, Offer] = {}
    for fact in facts:
        name = read_name(fact.id, fact.parameters)
        if name.text in offers:
            name = Name(_slug(fact.id) or MODEL, "", name.quant)
        known = quant_named(fact.quant) or quant_named(name.quant) or quant_named(quant) or UNKNOWN
        card = ModelCard(
            name=name.text,
            family=name.family,
            size=name.size or "unknown",
            quant=known.name,
            tier=known.tier,
            digest=hashlib.sha256(DIGEST_TAG + f"{url}\0{fact.id}".encode()).digest(),
            context=min(context or fact.context or CONTEXT_UNTOLD, CONTEXT_MAX),
            slots=slots,
            features=_features(fact),
        )
        offers.setdefault(card.name, Offer(fact.id, fact.owner, card))
    return list(offers.values())


def read_name(model_id: str, parameters: int = 0) -> Name:
    """The name that an id comes to: `Qwen/Qwen2.5-7B-Instruct` is `qwen2.5:7b`, `llama3.2:3b` is itself.

    Only words that say nothing of the weights are dropped; others stay in the size, so that a model that
    was changed never goes by the name of the one that it was made from.
    """
    word = _PART.sub("", _slug(model_id))
    quant = ""
    while found := _QUANT.search(word):
        quant, word = quant or found[1], word[: found.start()]
    if ":" in word:
        family, _, tag = word.partition(":")
        return Name(family, _without_neutral(tag), quant)
    if found := _SIZE.search(word):
        return Name(
            word[: found.start()] or MODEL, _without_neutral(f"{found[1]}{word[found.end() :]}"), quant
        )
    return Name(word or MODEL, _size_of(parameters), quant)


def _slug(model_id: str) -> str:
    """The last part of an id that is a path, in the letters that names are made of."""
    last = model_id.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._:-]+", "-", last)[:NAME_MAX_CHARS].strip("-:")


def _without_neutral(text: str) -> str:
    return "-".join(word for word in text.split("-") if word and word not in _NEUTRAL)


def _size_of(parameters: int) -> str:
    if not parameters:
        return ""
    millions = parameters / 1e6
    return f"{millions / 1000:.3g}b" if millions >= 1000 else f"{millions:.0f}m"


def quant_named(text: str) -> Quant | None:
    """The quantisation that a server or an id calls so; None if it is none."""
    return BY_NAME.get(text.lower().replace("fp", "f"))


def _features(fact: Facts) -> tuple[str, ...]:
    can = set(FEATURES.get(fact.owner, _ALL)) if fact.chats else set()
    if fact.chats and fact.tools is not None:
        can = can | {Feature.TOOLS} if fact.tools else can - {Feature.TOOLS}
    if fact.embeds:
        can.add(Feature.EMBEDDINGS)
    return tuple(feature for feature in Feature if feature in can)
