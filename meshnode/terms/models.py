"""What the owner of a node says of models: how good they are, and how a family likes to be asked. Plain data."""

from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.terms.job import Sampling, Share, StopString

Points = Annotated[float, Meta(ge=0, le=100)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
SYSTEM_MAX_CHARS = 32 * 1024


class Rating(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How good a model (`family:size`) is at each task, in points from 0 to 100; a task left out goes by its size.

    `source` says where the figures are from.
    """

    name: Name
    chat: Points | None = None
    code: Points | None = None
    reason: Points | None = None
    source: Annotated[str, Meta(max_length=1024)] = ""


class Prompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How models of a family are asked, where a request does not say itself.

    `system` is for conversations that begin without a system's turn; `stop` is added to those of the request; the
    others stand in for figures of `Sampling` that have their defaults.
    """

    family: Name
    system: Annotated[str, Meta(max_length=SYSTEM_MAX_CHARS)] = ""
    stop: Annotated[tuple[StopString, ...], Meta(max_length=8)] = ()
    temperature: Annotated[float, Meta(ge=0, le=2)] = Sampling().temperature
    top_p: Share = Sampling().top_p
    top_k: Annotated[int, Meta(ge=0, le=100_000)] = Sampling().top_k
    min_p: Share = Sampling().min_p
