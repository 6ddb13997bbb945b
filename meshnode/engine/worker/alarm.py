"""A bound on the time that Python code over hostile input may take. Needs the process's main thread.

SIGALRM interrupts Python between two bytecodes, and `re` inside a match; no other long call in C. Whoever
uses this keeps those calls short by bounding what goes into them. An alarm that rings inside a finalizer or
a callback of the garbage collector, where Python drops every exception, rings again.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TooLongError(Exception):
    """The time was over."""


AGAIN_S = 0.05


@contextmanager
def time_bound(seconds: float) -> Iterator[None]:
    """Raise TooLongError inside the block when it takes longer."""

    over = False

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        if not over:
            raise TooLongError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        try:
            yield
        finally:
            over = True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
