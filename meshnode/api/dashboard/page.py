"""The dashboard's page as it ships: plain files, the same for everybody, without one fact of the node.

So they need no key; what they show comes from `admin`, which does. Nothing is fetched from anywhere else.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

FOLDER = "/dashboard/"
INDEX = "index.html"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, and asked for again by its ETag
}


class _File(NamedTuple):
    content: bytes
    kind: str
    etag: str


def is_page(path: str) -> bool:
    """Whether this is part of the page, which needs no key."""
    return path == "/" or path.startswith(FOLDER)


class Page:
    """GET / and what it is made of, read once."""

    def __init__(self) -> None:
        folder = resources.files("meshnode.api.dashboard") / "static"
        parts = (one for one in folder.iterdir() if _kind(one.name))
        self._files = {one.name: _read(one.name, one.read_bytes()) for one in parts}

    async def index(self, request: Request) -> Response:
        """The page itself."""
        return self._answer(request, INDEX)

    async def part(self, request: Request) -> Response:
        """A script, a style or a picture of it; 404 for any other name."""
        return self._answer(request, request.path_params["name"])

    def _answer(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404, "The dashboard has no such file.")
        headers = {**HEADERS, "etag": file.etag}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, 200, headers, media_type=file.kind)


def _read(name: str, content: bytes) -> _File:
    return _File(content, _kind(name), f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _kind(name: str) -> str:
    """Its media type; empty for what is no part of the page, such as what an editor leaves behind."""
    return KINDS.get(name[name.rfind(".") :], "")
