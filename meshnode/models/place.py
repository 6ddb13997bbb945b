"""Where one pull keeps what is half done: a directory of its own in the cache, used by one pull at a time.

What lies here was not verified and is never served. It survives a kill at any moment, so that the next pull
of the same thing goes on. It knows neither sources nor the store.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

import msgspec
import trio

from meshnode.errors import DownloadFailed, HomeUnusable

INCOMING = "incoming"
SPACE_SLACK_BYTES = 64 << 20
LOCK_POLL_S = 0.2
KEPT_S = 14 * 24 * 3600  # what nobody went on with for so long is removed
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class State(msgspec.Struct, frozen=True):
    """What a part is a part of: the server's validator for it (empty: none) and the whole size (0: unknown)."""

    validator: str = ""
    total: int = 0


class Place:
    """One pull's directory. `part` is the file as far as it is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.part = directory / "model.part"
        self._state = directory / "state.json"

    def held(self) -> int:
        """How many bytes of the file are here."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def remember(self, state: State) -> None:
        """Keep the state through a kill."""
        fresh = self._state.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(state))
        fresh.replace(self._state)

    def recall(self) -> State | None:
        """The state of an earlier pull, if there is one that can be read."""
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return None

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.directory, ignore_errors=True)


@asynccontextmanager
async def place_for(cache: Path, key: str, on_wait: Callable[[], None]) -> AsyncIterator[Place]:
    """The place for what `key` names, once no other pull has it; `on_wait` is called if there is one.

    It is left as it is: whoever succeeds, or finds that nothing here is of use, clears it. Raises HomeUnusable.
    """
    incoming = cache / INCOMING
    with writing(incoming):
        incoming.mkdir(parents=True, exist_ok=True)
    async with _only_one(incoming / f"{key}.lock", on_wait) as lock:
        place = Place(incoming / key)
        with writing(incoming):
            _sweep(incoming, os.fstat(lock.fileno()).st_mtime - KEPT_S)
            place.directory.mkdir(exist_ok=True)
        try:
            yield place
        finally:
            with contextlib.suppress(OSError):
                place.directory.rmdir()  # only if there is nothing in it


@asynccontextmanager
async def _only_one(path: Path, on_wait: Callable[[], None]) -> AsyncIterator[IO[bytes]]:
    """Hold a lock file, which is removed at the end; wait while somebody else has it."""
    waited = False
    while True:
        with writing(path.parent):
            lock = _locked(path)
        if lock is not None:
            break
        if not waited:
            on_wait()
        waited = True
        await trio.sleep(LOCK_POLL_S)
    with lock:
        try:
            yield lock
        finally:
            _release(path)


def _release(path: Path) -> None:
    path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[bytes] | None:
    """The lock file, locked; None if another has it, or had it and removed it meanwhile."""
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            os.utime(file.fileno())
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _sweep(incoming: Path, before: float) -> None:
    """Remove what was left behind long ago; by the file system's own clock."""
    for left in incoming.iterdir():
        with contextlib.suppress(OSError):
            if left.is_dir() and _newest(left) < before and not left.with_name(f"{left.name}.lock").exists():
                shutil.rmtree(left)


def _newest(directory: Path) -> float:
    return max(path.stat().st_mtime for path in (directory, *directory.iterdir()))


def check_space(directory: Path, needed: int) -> None:
    """Raise DownloadFailed unless `needed` bytes fit and leave some room."""
    free = shutil.disk_usage(directory).free
    if free < needed + SPACE_SLACK_BYTES:
        need = needed + SPACE_SLACK_BYTES
        raise DownloadFailed(
            f"The disk of {directory} has {free >> 20} MiB free; {need >> 20} MiB are needed.",
            hint="Free some space, or set XDG_CACHE_HOME to a larger disk.",
        )


@contextmanager
def writing(below: Path) -> Iterator[None]:
    """Translate what goes wrong with the disk below `below`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DownloadFailed(
                f"The disk that {below} is on is full: {error.strerror}",
                hint="Free some space and run it again; what was fetched so far is kept.",
            ) from error
        raise HomeUnusable(f"{below} cannot be written: {error.strerror or error}") from error
