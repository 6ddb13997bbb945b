"""How much the API does at once, and how it ends: a count of requests, and the word that no more may begin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from meshnode.errors import Busy, Interrupted, MeshError

REQUESTS_MAX = 256
RETRY_BUSY_S = 1.0
RETRY_CLOSING_S = 5.0


class Traffic:
    """The requests under way, at most `most`; `draining` is set when those are to be the last."""

    def __init__(self, most: int = REQUESTS_MAX) -> None:
        self.most = most
        self.under_way = 0
        self.draining = trio.Event()
        self._ended = trio.Event()

    def refusal(self, *, bounded: bool = True) -> MeshError | None:
        """Why no request may begin now, or None; one that is not `bounded` needs no place."""
        if self.draining.is_set():
            return Interrupted("The node is shutting down.", retry_after_s=RETRY_CLOSING_S)
        if bounded and self.under_way >= self.most:
            return Busy(
                f"{self.under_way} API requests are under way, which is the most.", retry_after_s=RETRY_BUSY_S
            )
        return None

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count a request for as long as the context."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._ended.set()

    async def drain(self, within_s: float) -> None:
        """Let no request begin any more, and wait until those under way have ended or the time is over."""
        self.draining.set()
        with trio.move_on_after(within_s):
            while self.under_way:
                self._ended = trio.Event()
                await self._ended.wait()
