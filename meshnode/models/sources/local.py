"""A GGUF file on this machine. It is copied, for its owner may change it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from meshnode.errors import BadRequest
from meshnode.models.digest import Hashing
from meshnode.models.download import Fetched
from meshnode.models.gguf import read_header
from meshnode.models.place import check_space, writing
from meshnode.models.sources.base import Offer, Work
from meshnode.seams import Blocking


class FileSource:
    """A path."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser().absolute()

    async def find(self, blocking: Blocking) -> Offer:
        """Its header is checked before anything is copied."""
        return await blocking(self._look)

    def _look(self) -> Offer:
        if not self._path.is_file():
            raise BadRequest(f"there is no file {self._path}", param="source")
        read_header(self._path)
        return Offer(source=str(self._path), otherwise=self._path.stem, size_bytes=self._path.stat().st_size)

    async def fetch(self, offer: Offer, work: Work) -> Fetched:
        """A copy."""
        check_space(work.place.directory, offer.size_bytes)
        with contextlib.closing(_opened(self._path)) as file, writing(work.place.directory):
            return await copied([file], offer.size_bytes, work, "copying")


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", param="source") from error


async def copied(files: Sequence[IO[bytes]], size_bytes: int, work: Work, step: str) -> Fetched:
    """The files, one after the other, as the one in the place."""
    work.meter.begin(step, 0, size_bytes)
    with work.place.part.open("wb") as target:
        copying = Hashing(files[0], target)
        for copying.source in files:
            while await work.blocking(copying.step):
                work.meter.at(copying.done_bytes, size_bytes)
    return Fetched(work.place.part, copying.digest())
