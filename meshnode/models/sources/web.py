"""A file at an address: `https://…`, or `http://…` on this machine."""

from pathlib import PurePosixPath

import httpx2

from meshnode.errors import BadRequest
from meshnode.models.download import PATIENCE, Fetched, Patience, Wanted, download
from meshnode.models.sources.base import Offer, Work
from meshnode.seams import Blocking
from meshnode.urls import is_loopback


class WebSource:
    """An address; `sha256` (hex) is what the caller says the file must be."""

    def __init__(self, url: str, sha256: str = "", patience: Patience = PATIENCE) -> None:
        self._url = _checked(url)
        self._sha256 = sha256
        self._patience = patience

    async def find(self, _blocking: Blocking) -> Offer:
        """Nothing is asked yet: the file's own answer says how large it is."""
        stem = PurePosixPath(self._url.path).stem
        return Offer(
            source=_without_secrets(self._url),
            key=str(self._url),
            once=not self._url.query,
            otherwise=stem or "model",
            sha256=self._sha256,
        )

    async def fetch(self, offer: Offer, work: Work) -> Fetched:
        """The file, from where an earlier try stopped if it is still the same one."""
        wanted = Wanted(str(self._url), promised=bool(offer.sha256), plain=self._url.scheme == "http")
        return await download(wanted, work.place, work.blocking, work.meter, self._patience)


def _checked(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise BadRequest(f"{text[:80]!r} is no address: {error}", param="source") from error
    if not url.host or (url.scheme == "http" and not is_loopback(url.host)):
        raise BadRequest(
            f"{text[:80]!r} would be fetched without encryption.", hint="Use https://.", param="source"
        )
    return url


def _without_secrets(url: httpx2.URL) -> str:
    """The address as it may be kept and shown: without a password, a signature or a token."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))
