"""The audit log's files: kept open, as opening takes as long as a small write; their errors in words."""

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshnode.errors import HomeUnusable


class Opened:
    """The file at a path, made if it is not there; opened when it is first used, and anew once it was deleted."""

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self._flags = flags | os.O_CREAT
        self._descriptor: int | None = None
        self._closing: Callable[[], object] = lambda: None

    def descriptor(self) -> int:
        """The open file's; raises OSError."""
        if self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0:
            self.close()
        if self._descriptor is None:
            self._descriptor = os.open(self.path, self._flags, 0o600)
            self._closing = weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor

    def size(self) -> int:
        """In bytes; raises OSError."""
        return os.fstat(self.descriptor()).st_size

    def close(self) -> None:
        """Close it until it is used again; nobody else may be using it."""
        self._descriptor = None
        self._closing()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """What goes wrong with this file or folder comes out as HomeUnusable."""
    try:
        yield
    except OSError as error:
        raise HomeUnusable(
            f"The audit log {path} cannot be used: {error.strerror or error}.",
            hint="Is the disk full, or the directory not yours? No request leaves this node without its line.",
        ) from error
