"""Reading what a log file of this program holds, its predecessor first. It writes nothing, and knows no node."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import msgspec

from meshnode.errors import HomeUnusable
from meshnode.observe.log import FILE_NAME

LINE_BYTES_MAX = 128 * 1024  # 32 fields and an exception, each character written as several bytes


def log_path(home: Path) -> Path:
    """The log file of this home, whether it is there or not."""
    return home / FILE_NAME


def logged(home: Path) -> Iterator[dict[str, Any]]:
    """The fields of every line that is kept, oldest first; a line that a crash has cut off is left out.

    Raises HomeUnusable where there is a file that cannot be read.
    """
    path = log_path(home)
    with ExitStack() as stack:
        # Both are open before the first is read: what rolls over meanwhile is read all the same.
        files = [_opened(each, stack) for each in (path.with_name(f"{path.name}.1"), path)]
        for file in files:
            yield from _lines(file) if file is not None else ()


def _opened(path: Path, stack: ExitStack) -> IO[bytes] | None:
    try:
        return stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HomeUnusable(f"The log {path} cannot be read: {error.strerror}.") from error


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    while line := file.readline(LINE_BYTES_MAX):
        try:
            yield msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
