"""Signing weights and checking who signed them. It works on files and keys, and needs no running node.

Signing a model of this device also keeps the statement beside it, so that the node advertises it from the next
time it loads the model.
"""

from pathlib import Path

import msgspec

from meshnode.errors import BadRequest, ModelNotFound
from meshnode.models.digest import file_sha256
from meshnode.models.signed import keep, load_manifest
from meshnode.models.store import ModelStore
from meshnode.models.verify import verify
from meshnode.trust.weights import Manifest, manifest_of, sign
from meshwire.signing import Signer


class Verified(msgspec.Struct, frozen=True):
    """A manifest that holds: who signed, and which files; `checked` is the file it was held against, if any."""

    signer: str
    files: tuple[str, ...]
    checked: str = ""


def sign_weights(store: ModelStore, what: str, signer: Signer, now_ms: int) -> Manifest:
    """A manifest for a model of this device, or for a GGUF file by its path; reads all of the file.

    Raises ModelNotFound, ModelFileInvalid.
    """
    path = Path(what).expanduser()
    if path.is_file():
        digest, name = file_sha256(path), path.name
        verify(path, digest)
    elif (model := store.find(what)) is not None:
        path, digest, name = model.path, model.digest, model.name
        verify(path, digest, name)
    else:
        raise ModelNotFound(
            f"There is neither a file nor a model called {what} on this device.",
            hint="`meshnode models --local` lists them.",
        )
    statement = sign(signer, digest, now_ms)
    if any(model.digest == digest for model in store.models()):
        keep(store, statement)
    return manifest_of(statement, name=name, size_bytes=path.stat().st_size)


def verify_weights(manifest: Path, file: Path | None) -> Verified:
    """Check every signature of a manifest, and that a file is one of those signed.

    Raises BadRequest (no such file), ModelFileInvalid (a signature or the file is wrong).
    """
    signed = load_manifest(manifest)
    if file is not None:
        try:
            digest = file_sha256(file)
        except OSError as error:
            raise BadRequest(f"{file} cannot be read: {error.strerror}.", param="file") from error
        signed.statement_of(digest)
    return Verified(signed.signer, tuple(each.name for each in signed.files), str(file or ""))
