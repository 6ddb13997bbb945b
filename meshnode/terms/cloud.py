"""Commercial APIs as the owner of a node names them. Plain data; it knows no HTTP and counts no money."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meshnode.terms.candidate import Feature
from meshnode.terms.money import Price, Usd

CLOUD_MODELS_MAX = 64
NAMES_MAX = 8

Text = Annotated[str, Meta(max_length=256)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Tokens = Annotated[int, Meta(ge=1, le=1 << 24)]
Class = Literal["public", "private"]  # nothing else ever goes to a commercial API


class CloudModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of a commercial API.

    `id` is the API's own; `names` are the models of the mesh that it may stand in for, beside its own id.
    `context` and `output` are tokens: what it reads at most, and the longest answer to a request that names
    no length. `quant` is the owner's word on what it runs; without one no request that asks for a tier gets it.
    """

    id: Name
    input_usd: Usd
    output_usd: Usd
    names: Annotated[tuple[Name, ...], Meta(max_length=NAMES_MAX)] = ()
    context: Tokens = 32_768
    output: Tokens = 4096
    quant: Text = ""
    features: Annotated[tuple[Feature, ...], Meta(max_length=16)] = (Feature.TOOLS, Feature.JSON_SCHEMA)

    @property
    def price(self) -> Price:
        """What it costs."""
        return Price(self.input_usd, self.output_usd)


class CloudApi(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A commercial API, and how much of it a node may use.

    Its key stands in the environment variable `api_key_env`, or in the file `api_key_file`, which nobody else
    may read. `monthly_usd` is for a calendar month in UTC, `request_usd` for any one request. `privacy` names
    the classes that may go there: to list `private` is the owner's consent. `residency` are the labels that the
    owner vouches for. With `redact`, personal details leave as placeholders; `redact_region` is the country whose
    phone numbers are found without their country code. `limit_field` is the name that the
    API has for the length of an answer.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
    url: Text
    models: Annotated[tuple[CloudModel, ...], Meta(min_length=1, max_length=CLOUD_MODELS_MAX)]
    monthly_usd: Usd
    request_usd: Usd = 1.0
    api_key_env: Text = ""
    api_key_file: Text = ""
    privacy: Annotated[tuple[Class, ...], Meta(max_length=2)] = ("public",)
    residency: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    redact: bool = False
    redact_region: Annotated[str, Meta(pattern=r"^([A-Z]{2})?$")] = ""
    slots: Annotated[int, Meta(ge=1, le=1024)] = 32
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
