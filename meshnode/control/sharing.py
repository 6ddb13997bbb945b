"""Pausing and resuming what this node does for others, or all that it does; it knows no machine."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.control.verbs import Arguments, Emit, NoArguments, Verb, read_arguments
from meshnode.observe.snapshot import SharingView

PAUSE_MAX_S = 366 * 86_400


class PauseArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`everything` pauses the owner's own requests here too; `for_s` is for how long, 0 until `resume`."""

    everything: bool = False
    for_s: Annotated[int, Meta(ge=0, le=PAUSE_MAX_S)] = 0


def pause_verb(pause: Callable[[PauseArguments], SharingView]) -> Verb:
    """The verb `pause`, over a function that does it."""

    async def run(given: Arguments, _emit: Emit) -> SharingView:
        return pause(read_arguments(PauseArguments, given))

    return run


def resume_verb(resume: Callable[[], Awaitable[SharingView]]) -> Verb:
    """The verb `resume`, over a function that does it."""

    async def run(given: Arguments, _emit: Emit) -> SharingView:
        read_arguments(NoArguments, given)
        return await resume()

    return run
