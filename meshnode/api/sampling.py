"""How tokens are drawn: the fields that every endpoint that writes text reads alike."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from meshnode.api.options import MeshBody, given
from meshnode.errors import BadRequest
from meshnode.terms import Bias, Sampling
from meshnode.terms.job import BIASES_MAX

STOPS_MAX = 4
TOKEN_DIGITS_MAX = 10
SEED_MAX = 2**63 - 1

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=SEED_MAX)]
BiasValue = Annotated[float, Meta(ge=-100, le=100)]


class SamplingBody(MeshBody, frozen=True, kw_only=True):
    """The part of a body that says how tokens are drawn, and where to stop."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    logit_bias: dict[str, BiasValue] | None = None


def sampling_of(
    body: SamplingBody, *, max_tokens: int | None, logprobs: bool | None, top_logprobs: int | None
) -> Sampling:
    """How tokens are drawn. Raises BadRequest that names the field at fault."""
    return given(
        Sampling(stop=_stops(body.stop)),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
        max_tokens=max_tokens,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repeat_penalty=body.repeat_penalty,
        logit_bias=_biases(body.logit_bias or {}),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > STOPS_MAX:
        raise BadRequest(f"At most {STOPS_MAX} stop strings are possible.", param="stop")
    if "" in stops:
        raise BadRequest("A stop string cannot be empty.", param="stop")
    return stops


def _biases(given_biases: dict[str, float]) -> tuple[Bias, ...]:
    if len(given_biases) > BIASES_MAX:
        raise BadRequest(f"At most {BIASES_MAX} tokens can have a bias.", param="logit_bias")
    return tuple(Bias(_token_id(key), value) for key, value in given_biases.items())


def _token_id(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= TOKEN_DIGITS_MAX else 2**32
    if number >= 2**32:
        raise BadRequest(f"{text[:40]!r} is not the number of a token.", param="logit_bias")
    return number
