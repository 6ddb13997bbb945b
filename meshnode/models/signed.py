"""Statements beside the models they are about: kept, found again, and demanded of what is pulled.

A statement is verified whenever it is read: whoever can write into the home could change it.
"""

from contextlib import suppress
from pathlib import Path

import msgspec

from meshnode.errors import BadRequest, ModelFileInvalid
from meshnode.models.place import writing
from meshnode.models.progress import OnProgress
from meshnode.models.pull import pull
from meshnode.models.sources.base import Source
from meshnode.models.store import ModelStore, StoredModel
from meshnode.seams import Blocking
from meshnode.trust.weights import MANIFEST_BYTES_MAX, Manifest, Statement, read_manifest


def keep(store: ModelStore, statement: Statement) -> None:
    """Keep a statement beside the model; a newer one replaces it. Raises HomeUnusable."""
    path = store.statement_file(statement.digest)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.msgpack.encode(statement))
        part.replace(path)


def statement_of(store: ModelStore, digest: bytes) -> Statement | None:
    """Who vouches for this file; None when nobody does, or when what is kept does not hold."""
    with suppress(OSError, msgspec.MsgspecError):
        found = msgspec.msgpack.decode(store.statement_file(digest).read_bytes(), type=Statement)
        return found if found.digest == digest and found.holds else None
    return None


def load_manifest(path: Path) -> Manifest:
    """The manifest in this file, verified. Raises BadRequest (no such file), ModelFileInvalid."""
    try:
        with path.open("rb") as file:
            content = file.read(MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.", param="manifest") from error
    return read_manifest(content)


async def pull_signed(
    source: str | Source,
    store: ModelStore,
    manifest: Path,
    *,
    blocking: Blocking,
    on_progress: OnProgress,
    sha256: str = "",
    name: str = "",
) -> StoredModel:
    """Pull a model that must be one of a manifest's, and keep what that says of it; see `pull`.

    The file is refused before it gets a name, and so before anything opens it, when it is not what was signed.
    """
    signed = await blocking(lambda: load_manifest(manifest))
    statement = signed.statement_of(_meant(signed, sha256))
    wanted = statement.digest.hex()
    model = await pull(source, store, blocking=blocking, on_progress=on_progress, sha256=wanted, name=name)
    if model.digest != statement.digest:
        raise ModelFileInvalid(f"{model.name} is not the file that was signed.")
    await blocking(lambda: keep(store, statement))
    return model


def _meant(manifest: Manifest, sha256: str) -> bytes:
    """The file of the manifest that is wanted."""
    if sha256:
        return bytes.fromhex(sha256.lower().removeprefix("sha256:"))
    if len(manifest.files) > 1:
        names = ", ".join(f"{file.sha256} ({file.name})" for file in manifest.files)
        raise BadRequest(f"The manifest has several files: {names}.", hint="Say which with --sha256.")
    return bytes.fromhex(manifest.files[0].sha256)
