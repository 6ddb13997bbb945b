"""A TOML file of bounded size: reading it, and putting a new one in its place at once. It knows no setting."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from meshnode.errors import ConfigInvalid, HomeUnusable

FILE_BYTES_MAX = 64 * 1024
NEW_MODE = 0o600


def read_bytes(path: Path) -> bytes:
    """What the file holds, nothing where there is none. Raises HomeUnusable."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise HomeUnusable(f"{path} cannot be read: {error.strerror}.") from error


def parse_toml(raw: bytes, path: Path) -> dict[str, Any]:
    """What these bytes of that file say. Raises ConfigInvalid."""
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigInvalid(f"{path} is larger than {FILE_BYTES_MAX} bytes.", param=path.name)
    try:
        return msgspec.toml.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigInvalid(f"{path} is not valid TOML: {error}.", param=path.name) from error


def read_toml(path: Path) -> dict[str, Any]:
    """What the file says; empty where there is none. Raises ConfigInvalid, HomeUnusable."""
    return parse_toml(read_bytes(path), path)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Make the directory if need be, and let one process at a time change files in it. Raises HomeUnusable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Put this in the file's place, whole or not at all; its mode and its owner stay. Raises HomeUnusable."""
    target = Path(os.path.realpath(path))  # where it is a link, it stays one
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _write_draft(draft, content, like=target)
        draft.replace(target)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise _unwritable(path, error) from error


def _write_draft(draft: Path, content: bytes, *, like: Path) -> None:
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, NEW_MODE)
    with os.fdopen(descriptor, "wb") as file:
        if like.exists():
            facts = like.stat()
            if (facts.st_uid, facts.st_gid) != (os.getuid(), os.getgid()):
                # Else, after a change by root, the node could not read it any more.
                os.fchown(file.fileno(), facts.st_uid, facts.st_gid)
            os.fchmod(file.fileno(), facts.st_mode & 0o777)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _unwritable(path: Path, error: OSError) -> HomeUnusable:
    return HomeUnusable(
        f"{path} cannot be written: {error.strerror or error}.",
        hint="Check who owns it and whether the disk is full, or choose another --home.",
    )
