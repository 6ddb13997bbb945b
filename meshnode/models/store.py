"""Where model files lie: by their SHA-256 under `models/blobs`, with names in a small index beside them.

A file is in `blobs` only when it is whole and was verified; anything half done has another name. The files
themselves are shared by hard links between the homes of one machine, through a cache directory. Everything
here blocks; call it through `Seams.blocking`.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import msgspec
import platformdirs

from meshnode.errors import HomeUnusable, ModelFileInvalid
from meshnode.models.digest import file_sha256

INDEX_FORMAT = 1


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A verified model file; `digest` is its SHA-256."""

    name: str
    digest: bytes
    path: Path
    size_bytes: int


class _Row(msgspec.Struct, frozen=True):
    sha256: str
    size_bytes: int
    changed_ns: int
    source: str = ""


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
        raise HomeUnusable(f"neither {self._wanted_cache} nor {self._root} can be written")

    def models(self) -> list[StoredModel]:
        """Every model in the store whose file is there, by name."""
        rows = sorted(self._read().models.items())
        return [model for name, row in rows if (model := self._model(name, row)).path.is_file()]

    def find(self, name: str) -> StoredModel | None:
        """The model of this name or `sha256:…`, verified again if its file was touched since.

        Raises ModelFileInvalid when the file is no longer what it was.
        """
        for known, row in sorted(self._read().models.items()):
            if name.lower() in (known, f"sha256:{row.sha256}"):
                model = self._model(known, row)
                return self._checked(model, row) if model.path.is_file() else None
        return None

    def add(self, name: str, digest: bytes, source: str) -> StoredModel:
        """Name a file that lies in the shared cache, verified, and link or copy it in."""
        blob = self._blob(digest)
        with writing(self._root):
            if not blob.is_file():
                place(self.cached(digest), blob)
            status = blob.stat()
            index = self._read()
            row = _Row(digest.hex(), status.st_size, status.st_mtime_ns, source)
            index.models[name] = row
            self._write(index)
        return self._model(name, row)

    def remove(self, name: str) -> bool:
        """Forget a name, and its file unless another name has it; whether there was one."""
        index = self._read()
        row = index.models.pop(name.lower(), None)
        if row is None:
            return False
        with writing(self._root):
            self._write(index)
            if all(other.sha256 != row.sha256 for other in index.models.values()):
                self._blob(bytes.fromhex(row.sha256)).unlink(missing_ok=True)
        return True

    def cached(self, digest: bytes) -> Path:
        """Where the shared cache has, or would have, this file."""
        return self.cache / f"sha256-{digest.hex()}"

    def is_cached(self, digest: bytes) -> bool:
        """Whether the shared cache has such a file; its content is not looked at."""
        return self.cached(digest).is_file()

    def _blob(self, digest: bytes) -> Path:
        return self._blobs / f"sha256-{digest.hex()}"

    def _model(self, name: str, row: _Row) -> StoredModel:
        digest = bytes.fromhex(row.sha256)
        return StoredModel(name=name, digest=digest, path=self._blob(digest), size_bytes=row.size_bytes)

    def _checked(self, model: StoredModel, row: _Row) -> StoredModel:
        status = model.path.stat()
        if (status.st_size, status.st_mtime_ns) == (row.size_bytes, row.changed_ns):
            return model
        if file_sha256(model.path) != model.digest:
            raise ModelFileInvalid(
                f"the file of {model.name} was changed or damaged: {model.path}",
                hint=f"Remove that file and fetch it again: meshnode pull {model.name}",
            )
        self.add(model.name, model.digest, row.source)
        return model

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


@contextlib.contextmanager
def writing(below: Path) -> Iterator[None]:
    """Translate what goes wrong with the disk below `below`."""
    try:
        yield
    except OSError as error:
        raise HomeUnusable(f"{below} cannot be written: {error.strerror or error}") from error


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
