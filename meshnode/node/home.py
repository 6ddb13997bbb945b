"""The home directory: made on first use, private, and used by one node at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshnode.errors import HomeInUse, HomeUnusable

LOCK_FILE = "lock"


@contextmanager
def locked_home(home: Path) -> Iterator[None]:
    """Hold the home for this process; raises HomeUnusable or HomeInUse (which names the other process)."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(home / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise HomeUnusable(
            f"The home directory {home} cannot be written: {error.strerror or error}.",
            hint="Choose another with --home, or change its owner.",
        ) from error
    try:
        _lock(descriptor, home)
        yield
    finally:
        os.close(descriptor)  # closing gives the lock back


def _lock(descriptor: int, home: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        raise HomeInUse(
            f"Another node runs from {home}" + (f" (process {holder})." if holder else "."),
            hint="`meshnode status` shows it; for a second node on this machine choose another --home.",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
