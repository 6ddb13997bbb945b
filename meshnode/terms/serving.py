"""The settings of the HTTP API: its address, who may call it, how much at once, and how it stops."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from meshnode.terms.profile import NamedProfile
from meshnode.terms.sparing import Sparing

Text = Annotated[str, Meta(max_length=256)]
Port = Annotated[int, Meta(ge=0, le=65_535)]

PROFILES_MAX = 64
NAMES_MAX = 64


class Serving(Sparing, frozen=True, kw_only=True):
    """Part of a node's settings; the descriptions are what the documentation quotes."""

    api_host: Annotated[
        Text,
        Meta(
            description="The address the OpenAI-compatible API listens on; off loopback it takes keys alone."
        ),
    ] = "127.0.0.1"
    api_port: Annotated[Port, Meta(description="The API's port; 0 takes any free one.")] = 8420
    api_require_key: Annotated[
        bool, Meta(description="Answer no API request without a key; off loopback that is so anyway.")
    ] = False
    api_names: Annotated[
        tuple[Text, ...],
        Meta(
            max_length=NAMES_MAX,
            description="Host names under which the API may be called, besides localhost and addresses.",
        ),
    ] = ()
    api_origins: Annotated[
        tuple[Text, ...],
        Meta(
            max_length=NAMES_MAX,
            description="Web pages that may call the API, as https://chat.example; none unless named (CORS).",
        ),
    ] = ()
    api_requests: Annotated[
        int, Meta(ge=1, le=4096, description="How many API requests may be under way at once.")
    ] = 256
    api_request_s: Annotated[
        int,
        Meta(
            ge=1, le=86_400, description="How long an API request may take at most, in seconds, to its end."
        ),
    ] = 3600
    api_drain_s: Annotated[
        int,
        Meta(
            ge=0,
            le=3600,
            description="How long a node that is told to stop lets answers go on, in seconds.",
        ),
    ] = 5
    profiles: Annotated[
        tuple[NamedProfile, ...],
        Meta(
            max_length=PROFILES_MAX,
            description="What API keys allow, as [[profiles]] tables; see docs/api-keys.md.",
        ),
    ] = ()
