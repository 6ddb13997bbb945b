"""One request, whole: it carries its own deadline and privacy, so that nobody has to ask back."""

from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.terms.wish import Count, Wish

DEADLINE_MS_MAX = 2**32 - 1
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopString = Annotated[str, Meta(min_length=1, max_length=4096)]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation. `role` is system, user, assistant or tool."""

    role: str
    content: str
    name: str = ""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are drawn. `max_tokens` 0 means as many as the context allows; `seed` None means any.

    The bounds hold for whatever is converted to this: what a program asks for, and what a peer sends.
    """

    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.8
    top_p: Share = 0.95
    top_k: Annotated[int, Meta(ge=0, le=100_000)] = 40
    min_p: Share = 0.05
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: Count = 0
    stop: Annotated[tuple[StopString, ...], Meta(max_length=16)] = ()
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What goes in at the top of the walk.

    `id` is unique per request and appears in logs on every hop. `deadline_ms` is the time that is left, never
    a point in time, so that clocks need not agree. `tenant_tag` separates callers without naming them.
    """

    id: str
    wish: Wish
    turns: tuple[Turn, ...]
    sampling: Sampling = Sampling()
    deadline_ms: Annotated[int, Meta(ge=1, le=DEADLINE_MS_MAX)] = 300_000
    tenant_tag: Annotated[bytes, Meta(max_length=64)] = b""
