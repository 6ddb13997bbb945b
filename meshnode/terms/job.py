"""One request, whole: it carries its own deadline and privacy, so that nobody has to ask back."""

import msgspec

from meshnode.terms.wish import Wish


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation. `role` is system, user, assistant or tool."""

    role: str
    content: str
    name: str = ""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are drawn. `max_tokens` 0 means as many as the context allows; `seed` None means any."""

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    seed: int | None = None
    max_tokens: int = 0
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What goes in at the top of the walk.

    `id` is unique per request and appears in logs on every hop. `deadline_ms` is the time that is left, never
    a point in time, so that clocks need not agree. `tenant_tag` separates callers without naming them.
    """

    id: str
    wish: Wish
    turns: tuple[Turn, ...]
    sampling: Sampling = Sampling()
    deadline_ms: int = 300_000
    tenant_tag: bytes = b""
