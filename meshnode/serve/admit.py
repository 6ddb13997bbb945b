"""The first step: a bounded number of requests are under way at once; one more is told to come back later."""

from collections.abc import Iterator
from contextlib import contextmanager

from meshnode.errors import Busy

ASKS_AT_ONCE = 512


class Admission:
    """Counts the requests this node is busy with, its own and those it serves for others."""

    def __init__(self, most: int = ASKS_AT_ONCE) -> None:
        self.most = most
        self.taken = 0

    def check(self) -> None:
        """Raise Busy when there is no place."""
        if self.taken >= self.most:
            raise Busy(f"{self.taken} requests are under way here, which is the most.", retry_after_s=1.0)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place; raises Busy when there is none."""
        self.check()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
