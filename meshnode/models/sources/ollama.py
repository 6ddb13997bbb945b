"""`ollama:NAME[:TAG]`: models that Ollama has on this machine already; linked, not copied, where that works.

Its store: a manifest in JSON for each name, which names a blob by its SHA-256. Blobs are never changed.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from meshnode.errors import BadRequest, DownloadFailed, ModelFileInvalid, ModelNotFound
from meshnode.models.digest import Hashing
from meshnode.models.download import Fetched
from meshnode.models.sources.base import SHA256, Offer, Work
from meshnode.seams import Blocking

MODEL_LAYER = "application/vnd.ollama.image.model"
MANIFEST_BYTES_MAX = 1 << 20
HOSTS_MAX = 64
SYSTEM_STORE = Path("/usr/share/ollama/.ollama/models")  # where its Linux service keeps them
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_FORM = re.compile(rf"(?:(?P<owner>{_WORD})/)?(?P<model>{_WORD})(?::(?P<tag>{_WORD}))?")


class _Layer(msgspec.Struct, frozen=True):
    digest: str
    media_type: str = msgspec.field(default="", name="mediaType")
    size: int = 0


class _Manifest(msgspec.Struct, frozen=True):
    layers: tuple[_Layer, ...] = ()


class OllamaSource:
    """A name as `ollama list` shows it."""

    def __init__(self, text: str) -> None:
        found = _FORM.fullmatch(text)
        if found is None:
            raise BadRequest(f"ollama:{text[:80]} is not of the form ollama:NAME[:TAG].", param="source")
        self._text = text
        self._owner = found["owner"] or "library"
        self._model, self._tag = found["model"], found["tag"] or "latest"
        self._blob = Path()

    async def find(self, blocking: Blocking) -> Offer:
        """What the manifest names, if its blob is there."""
        return await blocking(self._look)

    def _look(self) -> Offer:
        for store in _stores():
            for manifest in self._manifests(store):
                layer = _model_layer(manifest)
                sha256 = layer.digest.removeprefix("sha256:")
                if not SHA256.fullmatch(sha256):
                    raise ModelFileInvalid(f"{manifest} names a blob that cannot be: {layer.digest[:80]!r}")
                self._blob = store / "blobs" / f"sha256-{sha256}"
                if not self._blob.is_file():
                    raise ModelFileInvalid(f"{self._blob} is missing.", hint=f"ollama pull {self._text}")
                return Offer(
                    source=f"ollama:{self._text}",
                    otherwise=f"{self._model}-{self._tag}",
                    sha256=sha256,
                    size_bytes=self._blob.stat().st_size,
                )
        raise ModelNotFound(
            f"Ollama has no {self._text} on this machine.",
            hint="`ollama list` shows what there is; OLLAMA_MODELS says where, if not in the usual place.",
        )

    def _manifests(self, store: Path) -> Iterator[Path]:
        """The manifest of this name, from whichever registry it came."""
        hosts = sorted((store / "manifests").glob("*"))[:HOSTS_MAX]
        for host in hosts:
            manifest = host / self._owner / self._model / self._tag
            if manifest.is_file():
                yield manifest

    async def fetch(self, offer: Offer, work: Work) -> Fetched:
        """The blob where it is, read through to see that it is what its name says."""
        work.meter.begin("checking", 0, offer.size_bytes)
        try:
            with self._blob.open("rb") as file:
                hashing = Hashing(file)
                while await work.blocking(hashing.step):
                    work.meter.at(hashing.done_bytes, offer.size_bytes)
        except OSError as error:
            raise DownloadFailed(f"{self._blob} cannot be read: {error.strerror}") from error
        return Fetched(self._blob, hashing.digest(), ours=False)


def _stores() -> list[Path]:
    named = os.environ.get("OLLAMA_MODELS")
    return [Path(named)] if named else [Path.home() / ".ollama" / "models", SYSTEM_STORE]


def _model_layer(manifest: Path) -> _Layer:
    """The one layer that is the model."""
    try:
        with manifest.open("rb") as file:
            found = msgspec.json.decode(file.read(MANIFEST_BYTES_MAX), type=_Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelFileInvalid(f"{manifest} cannot be read: {error}") from error
    models = [layer for layer in found.layers if layer.media_type == MODEL_LAYER]
    if len(models) != 1:
        raise ModelFileInvalid(f"{manifest} has {len(models)} model files; one can be used")
    return models[0]
