"""Which source a text names, as a person types it after `meshnode pull`."""

import os
from pathlib import Path

from meshnode.models import catalog
from meshnode.models.sources.base import Source
from meshnode.models.sources.hub import HubSource
from meshnode.models.sources.local import FileSource
from meshnode.models.sources.mesh import not_running
from meshnode.models.sources.ollama import OllamaSource
from meshnode.models.sources.web import WebSource
from meshnode.models.sources.wheels import CatalogSource, WheelSource

MESH = "mesh:"
SCHEMES = ("https://", "http://", "pypi:", "hf:", "ollama:", MESH)


def source_of(text: str, sha256: str = "") -> Source:
    """The source; `sha256` (hex) is what the file must be. Raises ModelNotFound or BadRequest, and
    NotRunning for the mesh's, which only a node can reach."""
    scheme = next((scheme for scheme in SCHEMES if text.startswith(scheme)), "")
    match scheme:
        case "https://" | "http://":
            return WebSource(text, sha256)
        case "pypi:":
            return WheelSource(text.removeprefix(scheme))
        case "hf:":
            return HubSource(text.removeprefix(scheme))
        case "ollama:":
            return OllamaSource(text.removeprefix(scheme))
        case "mesh:":
            raise not_running()
    return FileSource(Path(text)) if is_path(text) else CatalogSource(catalog.find(text))


def is_path(text: str) -> bool:
    """Whether a text looks like a file's path rather than a name or another kind of source."""
    if text.startswith(SCHEMES):
        return False
    return text.endswith(".gguf") or text.startswith((".", "/", "~")) or os.sep in text
