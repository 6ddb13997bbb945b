"""Keeping a wanted link up: dial, and dial again with back-off and jitter for as long as the wish stands."""

from collections.abc import Awaitable, Callable

import trio

from meshnode.errors import MeshError
from meshnode.mesh.redialling import redial_delay_s
from meshnode.net.link import Link
from meshnode.seams import Rng

STEADY_S = 30.0  # a link that lasted this long starts the back-off afresh

Dial = Callable[[], Awaitable[Link | None]]
OnFailure = Callable[[MeshError], None]


async def keep_linked(dial: Dial, rng: Rng, on_failure: OnFailure) -> None:
    """Keep one link up until cancelled. `dial` gives None when the other end is linked by other means."""
    failures = 0
    while True:
        begun = trio.current_time()
        try:
            if (link := await dial()) is not None:
                await link.closed()
        except MeshError as error:
            on_failure(error)
        failures = 0 if trio.current_time() - begun >= STEADY_S else failures + 1
        await trio.sleep(redial_delay_s(failures, rng))
