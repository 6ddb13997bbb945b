"""Where a run's pieces come out: an iterator that is fed from elsewhere, and ends with an End or a MeshError."""

from collections.abc import AsyncIterator
from contextlib import suppress

import trio

from meshnode.errors import MeshError
from meshnode.terms import Emitted, End

IN_ROW_MAX = 64  # items that are taken without letting others have their turn


class Outlet(AsyncIterator[Emitted]):
    """What is emitted, in order. At most `most` items may lie there untaken."""

    def __init__(self, most: float) -> None:
        self._in_row = 0
        self._put, self._get = trio.open_memory_channel[Emitted | MeshError](most)

    async def __anext__(self) -> Emitted:
        """The next item, at once if it is there. Raises the MeshError that the run ended with, if it did."""
        try:
            item = await self._next()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if isinstance(item, MeshError):
            raise item
        return item

    async def _next(self) -> Emitted | MeshError:
        """Others get their turn when nothing is there, and now and then."""
        if self._in_row < IN_ROW_MAX:
            with suppress(trio.WouldBlock):
                item = self._get.receive_nowait()
                self._in_row += 1
                return item
        self._in_row = 0
        return await self._get.receive()

    def _close(self, last: End | MeshError) -> None:
        """The end, after what has already come."""
        self._put.send_nowait(last)
        self._put.close()
