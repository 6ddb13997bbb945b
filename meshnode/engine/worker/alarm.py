"""A bound on the time that Python code over hostile input may take. Needs the process's main thread.

SIGALRM interrupts Python between two bytecodes, and `re` inside a match; no other long call in C. Whoever
uses this keeps those calls short by bounding what goes into them.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class TooLongError(Exception):
    """The time was over."""


@contextmanager
def time_bound(seconds: float) -> Iterator[None]:
    """Raise TooLongError inside the block when it takes longer."""

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
