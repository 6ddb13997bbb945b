"""Digests of files, worked out in steps, so that whoever waits can show progress and stop. It knows no store."""

import hashlib
from pathlib import Path
from typing import IO

STEP_BYTES = 4 << 20


def file_sha256(path: Path) -> bytes:
    """The SHA-256 of a whole file. Blocks for as long as the reading takes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Hashing:
    """Reads a stream for its digest, and copies what it reads if there is a target.

    Several streams, one after the other, count as one.
    """

    def __init__(self, source: IO[bytes], target: IO[bytes] | None = None) -> None:
        self.source = source
        self._target = target
        self._hash = hashlib.sha256()
        self.done_bytes = 0

    def step(self) -> bool:
        """Read some more; False when there was nothing left."""
        found = self.source.read(STEP_BYTES)
        if self._target is not None:
            self._target.write(found)
        self._hash.update(found)
        self.done_bytes += len(found)
        return bool(found)

    def digest(self) -> bytes:
        """The SHA-256 of what was read."""
        return self._hash.digest()
