"""Holds back what must not be shown yet: half a character, or what may grow into a stop string.

Pure: tokens and their bytes go in, releases come out. It knows neither models nor processes.
"""

import codecs
from collections.abc import Sequence
from typing import NamedTuple


class Release(NamedTuple):
    """Whole tokens and exactly the text they make. `first_index` counts tokens from the answer's start."""

    first_index: int
    ids: tuple[int, ...]
    text: str


class Holdback:
    """Gathers tokens until their text may leave.

    A token id leaves only together with all of its bytes, so that whoever holds ids and text can continue
    the answer elsewhere. Bytes that never become a character turn into U+FFFD.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._released = 0
        self._ids: list[int] = []
        self._text = ""
        # After how many held ids the text is whole, and how long it is there.
        self._boundaries: list[tuple[int, int]] = []

    def push(self, token: int, piece: bytes) -> Release | None:
        """Take one token; what may leave now, if anything. After a stop string `stopped` is set."""
        self._ids.append(token)
        self._text += self._decoder.decode(piece)
        if not self._decoder.getstate()[0]:
            self._boundaries.append((len(self._ids), len(self._text)))
        stop_at = self._find_stop()
        if stop_at is not None:
            self.stopped = True
            return self._cut(stop_at)
        return self._release(len(self._text) - self._may_grow())

    @property
    def pending(self) -> str:
        """The characters that are held."""
        return self._text

    def flush(self) -> Release | None:
        """All that is still held; for the end of an answer that met no stop string."""
        self._text += self._decoder.decode(b"", final=True)
        if not self._ids:
            return None
        return self._take(len(self._ids), len(self._text))

    def _find_stop(self) -> int | None:
        found = [at for stop in self._stops if (at := self._text.find(stop)) >= 0]
        return min(found, default=None)

    def _may_grow(self) -> int:
        """Length of the longest end of the text that begins some stop string."""
        return max((overlap(self._text, stop) for stop in self._stops), default=0)

    def _release(self, limit: int) -> Release | None:
        whole = [boundary for boundary in self._boundaries if boundary[1] <= limit]
        return self._take(*whole[-1]) if whole else None

    def _cut(self, at: int) -> Release | None:
        """The text before a stop string; the ids of those tokens that lie wholly before it."""
        count = max((count for count, end in self._boundaries if end <= at), default=0)
        return self._take(count, at) if at else None

    def _take(self, count: int, length: int) -> Release:
        release = Release(self._released, tuple(self._ids[:count]), self._text[:length])
        self._released += count
        self._ids = self._ids[count:]
        self._text = self._text[length:]
        self._boundaries = [(c - count, end - length) for c, end in self._boundaries if c > count]
        return release


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`, without being all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
