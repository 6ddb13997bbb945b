"""What an API key allows: through which doors, and how much of what a request can wish for. Plain data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.terms.privacy import Privacy

MODELS_MAX = 64
PER_MINUTE_MAX = 1_000_000
CONCURRENT_MAX = 1024

Pattern = Annotated[str, Meta(min_length=1, max_length=256)]
Label = Annotated[str, Meta(min_length=1, max_length=64)]
ProfileName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~]+$")]


class Scope(StrEnum):
    """A door of the API."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    MODELS = "models"
    ADMIN = "admin"  # what an operator may see and do; no key has it unasked


SCOPES_DEFAULT = (Scope.CHAT, Scope.EMBEDDINGS, Scope.MODELS)


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ceiling over requests; what is empty or 0 sets none.

    `privacy` are the classes that a request may be of; one that names none is `private` where that is among them,
    else of the first. `models` are the names that may be asked for, `*` standing for anything: smollm2:*, auto.
    `cloud` says whether a commercial API may serve. `max_tokens` counts the tokens of all choices of an answer.
    `min_tier`, `residency` and `max_price_usd` hold besides what the request itself wishes for, see `Wish`.
    `concurrent` is how many requests may be under way at once, `per_minute` how many may begin in a minute.
    """

    privacy: Annotated[tuple[Privacy, ...], Meta(max_length=len(Privacy))] = ()
    models: Annotated[tuple[Pattern, ...], Meta(max_length=MODELS_MAX)] = ()
    cloud: bool = True
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    min_tier: Annotated[int, Meta(ge=0, le=6)] = 0
    residency: Annotated[tuple[Label, ...], Meta(max_length=8)] = ()
    max_price_usd: Annotated[float, Meta(ge=0)] | None = None
    concurrent: Annotated[int, Meta(ge=0, le=CONCURRENT_MAX)] = 0
    per_minute: Annotated[int, Meta(ge=0, le=PER_MINUTE_MAX)] = 0


class NamedProfile(Profile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile in the node's settings, which keys are made with by its name."""

    name: ProfileName


class Grant(msgspec.Struct, frozen=True):
    """Whose request it is, and what it may do: all of the profiles hold. `key` is the key's public id."""

    key: str
    name: str
    scopes: tuple[Scope, ...]
    profiles: tuple[Profile, ...] = ()
