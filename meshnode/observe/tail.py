"""The last lines of this process's log, for whoever looks at the node: a bounded ring of what was logged.

It is fed after everything that must not be logged was withheld, and shows no more than the log itself.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

LINES_MAX = 200


class LogLine(msgspec.Struct, frozen=True):
    """One line: its number, counted from 1 since the process began, and its fields as they were logged."""

    n: int
    fields: dict[str, Any]


class Tail:
    """A ring of LINES_MAX lines."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=LINES_MAX)
        self._n = 0

    def keep(self, fields: Mapping[str, Any]) -> None:
        """Take one more line, in place of the oldest."""
        self._n += 1
        self._lines.append(LogLine(self._n, dict(fields)))

    def after(self, n: int) -> tuple[LogLine, ...]:
        """Those later than line `n` that are still kept, oldest first."""
        return tuple(line for line in tuple(self._lines) if line.n > n)  # a copy: threads log, too

    @property
    def last(self) -> int:
        """The number of the newest line, 0 before the first."""
        return self._n


TAIL = Tail()  # logging is set up once for a process, and so is this
