"""What a request asks for: which model, how good, how private, where. It does not know who can give it."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.terms.privacy import Privacy
from meshwire.fields import grown

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Labels = Annotated[tuple[str, ...], Meta(max_length=16)]


class Place(StrEnum):
    """Which rungs of the ladder a request may use."""

    LOCAL = "local"
    PREFER_LOCAL = "prefer-local"
    MESH = "mesh"
    CLOUD = "cloud"


class CacheMode(StrEnum):
    """Which kept answers a request may be given, each mode those before it as well."""

    OFF = "off"
    EXACT = "exact"  # to the same request
    SEMANTIC = "semantic"  # to a question that means the same


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of one request.

    `model` is a name such as `smollm2:135m`, `qwen3:8b@q5`, or an exact digest `sha256:…`; empty means
    whatever there is. `min_tier` is 0 to 6, see `meshnode.routing.quants`. `prompt_tokens` is an estimate, for
    scoring only. `features` are things the node must be able to do, by name. `signed_by` are the public keys,
    in hex, of whom one must have signed the weights; empty takes any weights. `cache` says which kept answers are
    welcome; None leaves it to the node, which then reuses only what was not drawn by lot. `max_price_usd` is the most
    that the request may cost, at a commercial API or by what another node asks; None leaves that to the owner's
    budget. `max_joules` is the most energy that it may take; whoever cannot tell may not serve it then. `cloud` is
    off where no API may serve it at all.
    """

    model: str = ""
    min_tier: Annotated[int, Meta(ge=0, le=6)] = 0
    prompt_tokens: Count = 0
    output_tokens: Count = 256
    privacy: Privacy = Privacy.PRIVATE
    place: Place = Place.PREFER_LOCAL
    features: Labels = ()
    residency: Labels = ()
    signed_by: Labels = ()
    cache: CacheMode | None = None
    max_price_usd: Annotated[float, Meta(ge=0)] | None = None
    cloud: Annotated[bool, grown(64)] = True
    max_joules: Annotated[Annotated[float, Meta(ge=0)] | None, grown(65)] = None
