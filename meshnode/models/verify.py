"""The last look at a model file before anything opens it: its header, and every byte of it. It knows no store."""

from pathlib import Path

from meshnode.errors import ModelFileInvalid
from meshnode.models.digest import file_sha256
from meshnode.models.gguf import read_header


def verify(path: Path, digest: bytes, name: str = "") -> None:
    """Raise ModelFileInvalid unless the file is a sound GGUF file with this SHA-256. Reads all of it."""
    read_header(path)
    if file_sha256(path) != digest:
        raise ModelFileInvalid(
            f"the file of {name or 'the model'} is not what it was when it was fetched: {path}.",
            hint=f"Fetch it anew: meshnode rm {name}, then meshnode pull {name}"
            if name
            else "Fetch it anew.",
        )
