"""What every source of models can do: say what it would bring, and bring it. It knows no store."""

import re
from dataclasses import dataclass
from typing import Protocol

import msgspec

from meshnode.models.download import Fetched
from meshnode.models.place import Place
from meshnode.models.progress import Meter
from meshnode.seams import Blocking

SHA256 = re.compile(r"[0-9a-f]{64}")


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What a source would bring.

    `source` is what to pull to get it again, without secrets; `key` tells it from everything else where
    `source` does not; `once` says that what the store has from this source need not be fetched again; `name`
    what to call it, else its own header or `otherwise` says; `sha256` (hex) what the bytes will be, empty if
    nobody promised that; `size_bytes` 0 when not known; `licence` what is known of it before the file is here.
    """

    source: str
    key: str = ""
    once: bool = False
    name: str = ""
    otherwise: str = "model"
    sha256: str = ""
    size_bytes: int = 0
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What a source works with: a place for what is half done, threads, and somebody to tell."""

    place: Place
    blocking: Blocking
    meter: Meter


class Source(Protocol):
    """One model somewhere. Both steps raise MeshError."""

    async def find(self, blocking: Blocking) -> Offer:
        """Look what there is; no weights are moved yet. Raises ModelNotFound, BadRequest, DownloadFailed."""
        ...

    async def fetch(self, offer: Offer, work: Work) -> Fetched:
        """Bring the file into the place, going on with what an earlier try left there."""
        ...
