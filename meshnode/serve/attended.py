"""A run at another node, watched: how fast it is, whether it fails, and whether it says anything in time.

A long prompt, or a queue, is no reason to give up while there are signs of life. It tells what happened to whoever
keeps the record, and decides no more than when the time is over.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from meshnode.errors import EngineFailed, Interrupted, MeshError, Unreachable
from meshnode.routing.breaker import Outcome
from meshnode.routing.router import Flight
from meshnode.serve.running import Distant, Silent
from meshnode.terms import Emitted, End, Piece

FIRST_BYTE_S = 10.0  # until the first sign of life, besides twice what was expected
EXPECTED_TIMES = 2.0
STALL_S = 30.0  # from one sign of life to the next
AT_FAULT = (Unreachable, EngineFailed, Interrupted)


class Stalled(Unreachable):
    """Its link is well, but nothing comes of a run."""


@asynccontextmanager
async def attended(
    run: AbstractAsyncContextManager[AsyncIterator[Emitted]],
    flight: Flight,
    hear: Callable[[Emitted], None] = lambda _emitted: None,
) -> AsyncIterator[AsyncIterator[Emitted]]:
    """The same run, with its flight told how it goes and `hear` all that comes; raises as it does, and Stalled."""
    try:
        async with run as pieces:
            yield Attended(pieces, flight, hear)
    except MeshError as error:
        flight.ended(outcome_of(error), trio.current_time())
        raise
    finally:
        flight.ended(None, trio.current_time())


def outcome_of(error: MeshError) -> Outcome | None:
    """What an error says of the node: nothing where it was the request's fault, or the node was only busy."""
    if isinstance(error, Stalled):
        return Outcome.SILENT
    return Outcome.FAILED if isinstance(error, AT_FAULT) else None


class Attended(AsyncIterator[Emitted]):
    """What a run emits; Stalled when that takes too long. It is a Distant where the run is one."""

    def __init__(self, run: AsyncIterator[Emitted], flight: Flight, hear: Callable[[Emitted], None]) -> None:
        self._run = run
        self._hear = hear
        self._flight = flight
        self._patience_s = FIRST_BYTE_S + EXPECTED_TIMES * flight.expected_s
        self._due = trio.current_time() + self._patience_s

    async def __anext__(self) -> Emitted:
        """The next item. Raises MeshError."""
        try:
            item = await self._next()
        except Silent:
            raise
        except MeshError as error:
            self._flight.ended(outcome_of(error), trio.current_time())
            raise
        self._take(item)
        return item

    async def _next(self) -> Emitted:
        with trio.CancelScope(deadline=self._due):
            return await anext(self._run)
        raise Stalled(f"Nothing has come from the node that serves the answer for {self._patience_s:.0f} s.")

    def _take(self, item: Emitted) -> None:
        now = trio.current_time()
        self._hear(item)
        self._patience_s = STALL_S
        self._due = now + STALL_S
        if isinstance(item, Piece):
            self._flight.tokens(max(1, len(item.ids)), now)
        elif isinstance(item, End):
            self._flight.ended(Outcome.SERVED, now)

    async def heard(self) -> None:
        """As `Distant.heard`."""
        if isinstance(self._run, Distant):
            await self._run.heard()
        else:
            await trio.sleep_forever()

    async def reattach(self) -> None:
        """As `Distant.reattach`."""
        if not isinstance(self._run, Distant):
            raise Unreachable("There is no other way.")
        await self._run.reattach()
        self._due = trio.current_time() + STALL_S
