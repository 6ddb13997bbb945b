"""Where a run's pieces come out: an iterator that is fed from elsewhere, and ends with an End or a MeshError."""

from collections.abc import AsyncIterator

import trio

from meshnode.errors import MeshError
from meshnode.terms import Emitted, End


class Outlet(AsyncIterator[Emitted]):
    """What is emitted, in order. At most `most` items may lie there untaken."""

    def __init__(self, most: float) -> None:
        self._put, self._get = trio.open_memory_channel[Emitted | MeshError](most)

    async def __anext__(self) -> Emitted:
        """The next item. Raises the MeshError that the run ended with, if it did."""
        try:
            item = await self._get.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if isinstance(item, MeshError):
            raise item
        return item

    def _close(self, last: End | MeshError) -> None:
        """The end, after what has already come."""
        self._put.send_nowait(last)
        self._put.close()
