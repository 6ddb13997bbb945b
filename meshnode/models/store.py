"""Where model files lie: by their SHA-256 under `models/blobs`, with names in a small index beside them.

A file is in `blobs` only when it is whole and was verified; anything half done has another name. The files
themselves are shared by hard links between the homes of one machine, through a cache directory. Everything
here blocks; call it through `Seams.blocking`.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import msgspec
import platformdirs

from meshnode.errors import BadRequest, HomeUnusable, ModelFileInvalid
from meshnode.models.digest import file_sha256
from meshnode.models.facts import ModelFacts, facts_of, tidy_name
from meshnode.models.gguf import read_header
from meshnode.models.place import writing

INDEX_FORMAT = 1
SIGNED = "signed"
CHUNKS = "chunks"


class Part(msgspec.Struct, frozen=True):
    """What one node gave of a model.

    `problem` says why it was left out, `wrong` that it gave what is not the model.
    """

    name: str
    given_bytes: int = 0
    problem: str = ""
    wrong: bool = False


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A verified model file; `digest` is its SHA-256, `source` where it came from, `licence` if it is known.

    `parts` is who gave it, where it has just come from the mesh.
    """

    name: str
    digest: bytes
    path: Path
    size_bytes: int
    source: str = ""
    licence: str = ""
    parts: tuple[Part, ...] = ()


class Removed(msgspec.Struct, frozen=True):
    """A name that is gone, and how many bytes of disk that gave back (0: others still have the file)."""

    name: str
    freed_bytes: int


class _Row(msgspec.Struct, frozen=True):
    sha256: str
    size_bytes: int
    changed_ns: int
    source: str = ""
    facts: ModelFacts | None = None


class _Index(msgspec.Struct):
    format: int = INDEX_FORMAT
    models: dict[str, _Row] = msgspec.field(default_factory=dict)


def shared_cache() -> Path:
    """This user's directory for model files that all homes on the machine share."""
    return platformdirs.user_cache_path("meshnode") / "models"


class ModelStore:
    """The models of one home; `root` is usually `home/models`. Raises HomeUnusable when it cannot write."""

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        self._root = root
        self._blobs = root / "blobs"
        self._wanted_cache = cache or shared_cache()

    @cached_property
    def cache(self) -> Path:
        """The directory shared with other homes, made if need be; one in this home if that cannot be."""
        for candidate in (self._wanted_cache, self._root / "cache"):
            with contextlib.suppress(OSError):
                candidate.mkdir(parents=True, exist_ok=True)
                if os.access(candidate, os.W_OK):
                    return candidate
        raise HomeUnusable(
            f"Neither {self._wanted_cache} nor {self._root} can be written.",
            hint="Set XDG_CACHE_HOME to a folder that can be.",
        )

    def models(self) -> list[StoredModel]:
        """Every model in the store whose file is there, by name."""
        rows = sorted(self._read().models.items())
        return [model for name, row in rows if (model := self._model(name, row)).path.is_file()]

    def find(self, name: str) -> StoredModel | None:
        """The model of this name, `sha256:…` or source, verified again if its file was touched since.

        Raises ModelFileInvalid when the file is no longer what it was.
        """
        for known, row in sorted(self._read().models.items()):
            if name.lower() in (known, f"sha256:{row.sha256}") or name == row.source:
                model = self._model(known, row)
                return self._checked(model, row) if model.path.is_file() else None
        return None

    def facts(self, model: StoredModel) -> ModelFacts:
        """What the file's header says; raises ModelFileInvalid."""
        row = self._read().models.get(model.name)
        known = row.facts if row is not None and row.sha256 == model.digest.hex() else None
        return known or facts_of(read_header(model.path))

    def free_name(self, name: str, digest: bytes, source: str, facts: ModelFacts, *, given: str = "") -> str:
        """What a model can be called here: `given`, else `name`, else that with its quantisation.

        A name is free if nothing else has it; the same source may put a new file in place of its old one.
        Raises BadRequest if the given name is another model's.
        """
        rows = self._read().models
        wanted = tidy_name(given or name)
        for candidate in (wanted,) if given else (wanted, tidy_name(f"{wanted}-{facts.quant}")):
            row = rows.get(candidate)
            if row is None or row.sha256 == digest.hex() or row.source == source:
                return candidate
        if given:
            raise BadRequest(
                f"{wanted} is the name of another model here.",
                hint=f"Choose another name, or remove that one first: meshnode rm {wanted}",
                param="name",
            )
        return tidy_name(f"{wanted}-{digest.hex()[:8]}")

    def add(
        self,
        name: str,
        digest: bytes,
        source: str,
        *,
        facts: ModelFacts | None = None,
        file: Path | None = None,
    ) -> StoredModel:
        """Name a verified file, and link or copy it in; it lies in the shared cache unless `file` says where."""
        blob = self._blob(digest)
        with self._changing() as index:
            if not blob.is_file():
                place(file or self.cached(digest), blob)
            status = blob.stat()
            row = _Row(digest.hex(), status.st_size, status.st_mtime_ns, source, facts)
            before = index.models.get(name)
            index.models[name] = row
            self._write(index)
            if before is not None:
                self._drop_unnamed(before.sha256, index)
        return self._model(name, row)

    def remove(self, name: str) -> Removed | None:
        """Forget a name, and the file unless another name or another home has it; None if there was none."""
        with self._changing() as index:
            row = index.models.pop(name.lower(), None)
            if row is None:
                return None
            self._write(index)
            return Removed(name.lower(), self._drop_unnamed(row.sha256, index))

    def cached(self, digest: bytes) -> Path:
        """Where the shared cache has, or would have, this file."""
        return self.cache / f"sha256-{digest.hex()}"

    def is_cached(self, digest: bytes) -> bool:
        """Whether the shared cache has such a file; its content is not looked at."""
        return self.cached(digest).is_file()

    def statement_file(self, digest: bytes) -> Path:
        """Where it is kept who signed this file, see `meshnode.models.signed`; it goes when the file goes."""
        return self._root / SIGNED / digest.hex()

    def chunk_list_file(self, digest: bytes) -> Path:
        """Where the hashes of its chunks are kept, see `meshnode.models.share`; it goes when the file goes."""
        return self._root / CHUNKS / digest.hex()

    def _drop_unnamed(self, sha256: str, index: _Index) -> int:
        """Remove a file that no name has any more, here and, if no other home links it, in the cache."""
        if any(row.sha256 == sha256 for row in index.models.values()):
            return 0
        digest = bytes.fromhex(sha256)
        self.statement_file(digest).unlink(missing_ok=True)
        self.chunk_list_file(digest).unlink(missing_ok=True)
        freed = _unlinked(self._blob(digest))
        cached = self.cached(digest)
        if cached.is_file() and cached.stat().st_nlink == 1:
            freed += _unlinked(cached)
        return freed

    def _blob(self, digest: bytes) -> Path:
        return self._blobs / f"sha256-{digest.hex()}"

    def _model(self, name: str, row: _Row) -> StoredModel:
        digest = bytes.fromhex(row.sha256)
        return StoredModel(
            name=name,
            digest=digest,
            path=self._blob(digest),
            size_bytes=row.size_bytes,
            source=row.source,
            licence=row.facts.licence if row.facts else "",
        )

    def _checked(self, model: StoredModel, row: _Row) -> StoredModel:
        status = model.path.stat()
        if (status.st_size, status.st_mtime_ns) == (row.size_bytes, row.changed_ns):
            return model
        if file_sha256(model.path) != model.digest:
            raise ModelFileInvalid(
                f"the file of {model.name} was changed or damaged: {model.path}",
                hint=f"Remove that file and fetch it again: meshnode pull {row.source or model.name}",
            )
        self.add(model.name, model.digest, row.source, facts=row.facts)
        return model

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Index]:
        """The index, for one process at a time to change."""
        with writing(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            lock = (self._root / "index.lock").open("wb")
        with lock, writing(self._root):
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._read()

    def _read(self) -> _Index:
        try:
            return msgspec.json.decode((self._root / "index.json").read_bytes(), type=_Index)
        except FileNotFoundError:
            return _Index()
        except (OSError, msgspec.MsgspecError) as error:
            raise HomeUnusable(
                f"the list of models {self._root / 'index.json'} is damaged: {error}",
                hint="Remove it and pull your models again; files that are there are not fetched twice.",
            ) from error

    def _write(self, index: _Index) -> None:
        part = self._root / "index.json.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(index)))
        part.replace(self._root / "index.json")


def _unlinked(path: Path) -> int:
    """Remove a file; the bytes that gave back, none if it has another name somewhere."""
    try:
        status = path.stat()
        path.unlink()
    except FileNotFoundError:
        return 0
    return status.st_size if status.st_nlink == 1 else 0


def place(source: Path, target: Path) -> None:
    """Make a verified file appear under another name, whole or not at all: a hard link, or a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, part)
    part.replace(target)
