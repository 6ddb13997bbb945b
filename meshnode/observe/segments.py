"""The audit log's files: lines appended whole and for good, in segments of bounded size. It knows bytes, not lines.

A segment is named after the number of its first line. What `append`, or `sync` after it, returned from is on the
disk; what they did not is there whole, in part, or not at all, and only ever at the end of the last segment.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from meshnode.observe.opened import Opened, translated

FOLDER = "audit"
NAME = re.compile(r"audit-(\d{16})\.jsonl")
SEGMENTS_PER_LOG = 8  # so many files share the bound; the oldest goes when they would be more
SEGMENT_BYTES_MIN = 64 * 1024
_APPENDING = os.O_WRONLY | os.O_APPEND
SET_ASIDE_MAX = 8  # damaged logs that are kept for people to look at


@dataclass(frozen=True, slots=True)
class Segment:
    """One file, and the number of its first line."""

    path: Path
    first: int


class Segments:
    """The files of one log. Every method does IO and raises HomeUnusable."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self.folder = folder
        self._last: Opened | None = None
        self.segment_bytes = max(SEGMENT_BYTES_MIN, bytes_max // SEGMENTS_PER_LOG)

    def all(self) -> list[Segment]:
        """The files there are, the oldest first."""
        with translated(self.folder):
            if not self.folder.is_dir():
                return []
            found = ((path, NAME.fullmatch(path.name)) for path in self.folder.iterdir())
            return sorted(
                (Segment(path, int(name[1])) for path, name in found if name), key=lambda one: one.first
            )

    def read(self, segment: Segment) -> bytes:
        """All of a file."""
        with translated(segment.path):
            return segment.path.read_bytes()

    def append(self, first: int, lines: bytes) -> bool:
        """Put lines, of which the first has this number, at the end, for good; on failure none of them is there.

        Returns whether they began a new file.
        """
        with translated(self.folder):
            last = self._last_file()
            fits = last is not None and last.size() + len(lines) <= self.segment_bytes
            if last is None or not fits:
                last = self._last = Opened(self.folder / f"audit-{first:016}.jsonl", _APPENDING)
            _append(last.descriptor(), lines, sync=True)
            if not fits:
                _sync_folder(self.folder)
            return not fits

    def append_unsynced(self, lines: bytes) -> bool:
        """Put lines at the end of the file there is, if they fit: they outlive this process, and the machine only
        once `sync` has returned. It takes microseconds. Returns whether they fitted.
        """
        with translated(self.folder):
            last = self._last_file()
            if last is None or last.size() + len(lines) > self.segment_bytes:
                return False
            _append(last.descriptor(), lines, sync=False)
            return True

    def sync(self) -> None:
        """Make what was appended last."""
        with translated(self.folder):
            if self._last is not None:
                os.fsync(self._last.descriptor())

    def _last_file(self) -> Opened | None:
        if self._last is None or not self._last.path.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            segments = self.all()
            self._last = Opened(segments[-1].path, _APPENDING) if segments else None
        return self._last

    def cut(self, segment: Segment, size: int) -> None:
        """Leave only so many bytes of a file, and nothing of it if that is none."""
        with translated(segment.path):
            if size == 0:
                segment.path.unlink()
                _sync_folder(self.folder)
                return
            with segment.path.open("r+b") as file:
                file.truncate(size)
                os.fsync(file.fileno())

    def superfluous(self) -> list[Segment]:
        """The oldest files, which are more than there may be."""
        segments = self.all()
        return segments[: max(0, len(segments) - SEGMENTS_PER_LOG)]

    def remove(self, segments: list[Segment]) -> None:
        """Delete files."""
        with translated(self.folder):
            for segment in segments:
                segment.path.unlink(missing_ok=True)
            _sync_folder(self.folder)

    def set_aside(self, name: str) -> Path:
        """Move all files into a folder beside, for people to look at; the oldest such folders go."""
        with translated(self.folder):
            kept = sorted(path for path in self.folder.glob("damaged-*") if path.is_dir())
            for old in kept[: max(0, len(kept) - SET_ASIDE_MAX + 1)]:
                for path in old.iterdir():
                    path.unlink()
                old.rmdir()
            self._last = None
            target = self.folder / f"damaged-{name}"
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            for segment in self.all():
                segment.path.rename(target / segment.path.name)
            _sync_folder(self.folder)
            return target


def _append(descriptor: int, lines: bytes, *, sync: bool) -> None:
    before = os.fstat(descriptor).st_size
    try:
        _write_all(descriptor, lines)
        if sync:
            os.fsync(descriptor)
    except OSError:
        with suppress(OSError):  # if even that fails, the next start mends it
            os.ftruncate(descriptor, before)
        raise


def _write_all(descriptor: int, lines: bytes) -> None:
    while lines:
        lines = lines[os.write(descriptor, lines) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
