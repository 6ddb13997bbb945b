"""The models of a commercial API as the mesh sees them, and how much a request can be at most. Pure."""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from meshnode.engine.upstream.offer import quant_named, read_name
from meshnode.errors import ConfigInvalid
from meshnode.routing.policy import ModelWish
from meshnode.routing.quants import UNKNOWN
from meshnode.terms import CloudApi, CloudModel, Job, ModelCard
from meshnode.terms.candidate import Feature

DIGEST_TAG = b"meshnode cloud model\0"
FIXED_TOKENS = 1024  # for what an API may put before every prompt
PART_TOKENS = 64  # for what a chat template puts around a message, a call or a tool
UNASKED = (Feature.TOKEN_IDS, Feature.TEXT)  # of them only chats and vectors are asked for


class CloudOffer(NamedTuple):
    """A model of the API, and its card under the first of its names."""

    model: CloudModel
    card: ModelCard
    names: tuple[str, ...]

    def card_for(self, wanted: ModelWish) -> ModelCard:
        """The card under the name that fits what is wanted, if one does."""
        cards = (
            msgspec.structs.replace(self.card, name=name, family=name.partition(":")[0])
            for name in self.names
        )
        return next((card for card in cards if wanted.fits(card)), self.card)


def offers_of(api: CloudApi) -> tuple[CloudOffer, ...]:
    """Its models in their order. Raises ConfigInvalid for a quant that is none."""
    return tuple(_offer(api, model) for model in api.models)


def _offer(api: CloudApi, model: CloudModel) -> CloudOffer:
    name = read_name(model.id)
    quant = quant_named(model.quant) or UNKNOWN
    if model.quant and quant is UNKNOWN:
        raise ConfigInvalid(f"There is no quant {model.quant!r}.", hint="Such as BF16.", param="cloud")
    names = tuple(dict.fromkeys((model.id.lower(), name.text, *map(str.lower, model.names))))
    card = ModelCard(
        name=names[0],
        family=name.family,
        size=name.size or "unknown",
        quant=quant.name,
        tier=quant.tier,
        digest=hashlib.sha256(DIGEST_TAG + f"{api.url}\0{model.id}".encode()).digest(),
        context=model.context,
        slots=api.slots,
        features=tuple(feature for feature in model.features if _possible(api, feature)),
    )
    return CloudOffer(model, card, names)


def _possible(api: CloudApi, feature: Feature) -> bool:
    """Whether a feature is to be had there; likelihoods would show the placeholders of redacted text."""
    return feature not in UNASKED and not (api.redact and feature is Feature.LOGPROBS)


def most_prompt_tokens(job: Job, model: CloudModel) -> int:
    """More tokens than the prompt can have: every token that a tokenizer makes of a text has a byte of its own."""
    texts = list(_texts(job))
    bound = FIXED_TOKENS + sum(PART_TOKENS + len(text.encode()) for text in texts)
    return bound if job.inputs else min(bound, model.context)


def most_answer_tokens(job: Job, model: CloudModel) -> int:
    """The longest answer; that is what the API is told."""
    asked = job.sampling.max_tokens or model.output
    return 0 if job.inputs else min(asked, model.output) if job.sampling.shorten else asked


def _texts(job: Job) -> Iterator[str]:
    for turn in job.turns:
        yield turn.content + turn.name + turn.tool_call_id
        for call in turn.tool_calls:
            yield call.id + call.name + call.arguments
    for tool in job.tools:
        yield tool.name + tool.description + tool.parameters
    yield job.schema
    yield from job.inputs
