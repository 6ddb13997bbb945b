"""Brings a model into the store, wherever it comes from. Verified before it is named.

Every step can be interrupted, at any moment, and run again. It knows neither the mesh nor who asked.
"""

import hashlib
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

from meshnode.errors import ModelFileInvalid
from meshnode.models import catalog
from meshnode.models.digest import file_sha256
from meshnode.models.download import Fetched
from meshnode.models.facts import ModelFacts, facts_of, name_of, tidy_name
from meshnode.models.gguf import read_header
from meshnode.models.place import Place, place_for, writing
from meshnode.models.progress import Meter, OnProgress, PullProgress, silent
from meshnode.models.sources.base import Offer, Source, Work
from meshnode.models.sources.naming import source_of
from meshnode.models.sources.wheels import CatalogSource
from meshnode.models.store import ModelStore, StoredModel
from meshnode.seams import Blocking

__all__ = ["OnProgress", "PullProgress", "pull", "warm"]


async def pull(
    source: str | Source,
    store: ModelStore,
    *,
    blocking: Blocking,
    on_progress: OnProgress = silent,
    sha256: str = "",
    name: str = "",
) -> StoredModel:
    """Bring a model into the store; at once if it is there. See docs/models.md for what `source` can be.

    A Source that is ready made is taken as it is.
    `sha256` (hex) is what the file must be; `name` is what to call it. Raises ModelNotFound (no such model),
    BadRequest (no such file, a name that is taken), DownloadFailed, ModelFileInvalid, HomeUnusable.
    """
    wanted = sha256.lower().removeprefix("sha256:")
    pulling = _Pull(store, blocking, on_progress, wanted)
    return await pulling.run(source_of(source, wanted) if isinstance(source, str) else source, name)


async def warm(name: str, store: ModelStore, *, blocking: Blocking, on_progress: OnProgress = silent) -> Path:
    """Bring a catalog model into the machine's shared cache only, from where any home has it at once."""
    pulling = _Pull(store, blocking, on_progress, "")
    await pulling.warm(CatalogSource(catalog.find(name)))
    return store.cached(bytes.fromhex(catalog.find(name).sha256))


class _Brought(NamedTuple):
    """A verified file: in the shared cache, unless `file` says where else it lies."""

    digest: bytes
    facts: ModelFacts
    name: str
    file: Path | None = None


class _Pull:
    """One pull, with all that each of its steps needs."""

    def __init__(self, store: ModelStore, blocking: Blocking, on_progress: OnProgress, sha256: str) -> None:
        self._store = store
        self._blocking = blocking
        self._meter = Meter(on_progress)
        self._sha256 = sha256

    async def run(self, source: Source, name: str) -> StoredModel:
        offer = await self._find(source)
        if stored := await self._blocking(lambda: self._stored(offer, name)):
            return stored
        async with self._place(offer) as place:
            if stored := await self._blocking(lambda: self._stored(offer, name)):
                return stored  # another pull, which had the place until now, brought it
            brought = await self._bring(source, offer, place)
            return await self._blocking(lambda: self._named(brought, offer, name))

    async def warm(self, source: Source) -> None:
        offer = await self._find(source)
        async with self._place(offer) as place:
            await self._bring(source, offer, place)

    async def _find(self, source: Source) -> Offer:
        offer = await source.find(self._blocking)
        if self._sha256 and offer.sha256 and self._sha256 != offer.sha256:
            raise _wrong(offer.sha256, self._sha256)
        return offer

    def _place(self, offer: Offer) -> AbstractAsyncContextManager[Place]:
        """Keyed by what is promised, so that two sources of the same file wait for each other."""
        key = offer.sha256 or self._sha256 or hashlib.sha256((offer.key or offer.source).encode()).hexdigest()
        return place_for(self._store.cache, key, lambda: self._meter.begin("waiting", 0, 0))

    async def _bring(self, source: Source, offer: Offer, place: Place) -> _Brought:
        """The file, verified: from the shared cache if it is there, else fetched."""
        promised = bytes.fromhex(offer.sha256 or self._sha256)
        if promised and await self._is_cached(promised):
            place.clear()
            return await self._blocking(lambda: self._known(promised, offer))
        try:
            fetched = await source.fetch(offer, Work(place, self._blocking, self._meter))
            return await self._blocking(lambda: self._settle(fetched, offer, place))
        except ModelFileInvalid:
            place.clear()  # going on with it would end the same way
            raise

    async def _is_cached(self, digest: bytes) -> bool:
        """Whether the shared cache has the file, sound; a damaged one is removed."""
        cached = self._store.cached(digest)
        if not cached.is_file():
            return False
        size = cached.stat().st_size
        self._meter.begin("checking", 0, size)
        if await self._blocking(lambda: file_sha256(cached)) == digest:
            self._meter.at(size, size)
            return True
        cached.unlink(missing_ok=True)
        return False

    def _known(self, digest: bytes, offer: Offer) -> _Brought:
        header = read_header(self._store.cached(digest))
        return _Brought(
            digest, facts_of(header, offer.licence), offer.name or name_of(header, offer.otherwise)
        )

    def _settle(self, fetched: Fetched, offer: Offer, place: Place) -> _Brought:
        """Judge a whole file, and give it its final name once it is on the disk."""
        wanted = offer.sha256 or self._sha256
        if wanted and fetched.digest.hex() != wanted:
            raise _wrong(fetched.digest.hex(), wanted)
        header = read_header(fetched.path)
        name = offer.name or name_of(header, offer.otherwise)
        facts = facts_of(header, offer.licence)
        if not fetched.ours:
            return _Brought(fetched.digest, facts, name, fetched.path)
        with writing(self._store.cache):
            self._keep(fetched)
        place.clear()
        return _Brought(fetched.digest, facts, name)

    def _keep(self, fetched: Fetched) -> None:
        """Put the file into the shared cache, unless it is there already: then others have links to that one."""
        cached = self._store.cached(fetched.digest)
        if cached.is_file() and file_sha256(cached) == fetched.digest:
            return
        _sync(fetched.path)
        fetched.path.chmod(0o444)
        fetched.path.replace(cached)

    def _stored(self, offer: Offer, name: str) -> StoredModel | None:
        """What the store has of this already, sound; a damaged one is dropped, to be fetched again."""
        wanted, called = offer.sha256 or self._sha256, name or offer.name
        for model in self._store.models():
            same = model.digest.hex() == wanted if wanted else offer.once and model.source == offer.source
            if not same or (called and model.name != tidy_name(called)):
                continue
            try:
                return self._store.find(model.name)
            except ModelFileInvalid:
                self._store.remove(model.name)
        return None

    def _named(self, brought: _Brought, offer: Offer, name: str) -> StoredModel:
        digest, facts = brought.digest, brought.facts
        free = self._store.free_name(brought.name, digest, offer.source, facts, given=name)
        return self._store.add(free, digest, offer.source, facts=facts, file=brought.file)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _wrong(found: str, wanted: str) -> ModelFileInvalid:
    return ModelFileInvalid(
        f"the model file has SHA-256 {found}, expected {wanted}",
        hint="The file is damaged, incomplete or another one; fetch it again.",
    )
