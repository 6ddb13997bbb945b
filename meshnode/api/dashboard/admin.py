"""What the dashboard lives on: the node at this moment, the reason for a decision, and an invitation.

It shows what the operator may see, so it is for this node's own page and for programs: other web pages are refused,
also those that may use the rest of the API. It keeps no books; what is behind the doors tells.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

import msgspec
import trio
from msgspec import Meta
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from meshnode.api.doors import Doors
from meshnode.api.guard import LOOPBACK_HOSTS, read_json_body
from meshnode.errors import BadRequest
from meshnode.observe.recent import RequestView
from meshnode.observe.snapshot import Snapshot
from meshnode.observe.tail import TAIL, LogLine
from meshnode.qr import modules
from meshnode.terms import Job

STATE = "/admin/state"
EXPIRES_S = 3600
HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
NUMBER_DIGITS_MAX = 15


class State(msgspec.Struct, frozen=True):
    """All that the page shows: the snapshot, the latest requests, and the lines of the log it has not seen yet."""

    snapshot: Snapshot
    requests: tuple[RequestView, ...]
    log: tuple[LogLine, ...]


class InviteBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the ticket is to last, in seconds."""

    expires_s: Annotated[int, Meta(ge=60, le=30 * 24 * 3600)] = EXPIRES_S


class Invitation(msgspec.Struct, frozen=True):
    """A one-use ticket, and the rows of its QR code: `1` is dark."""

    ticket: str
    expires_s: int
    qr: tuple[str, ...]


class Admin:
    """GET /admin/state, GET /admin/requests/{id} and POST /admin/invite."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def state(self, request: Request) -> Response:
        """The node now; `after` is the number of the last line of the log that the caller has."""
        check_own_page(request)
        after = _number(request.query_params.get("after", "0"))
        now = trio.current_time()
        return _json(State(self._doors.snapshot(), self._doors.recent.views(now), TAIL.after(after)))

    async def decision(self, request: Request) -> Response:
        """Why a request of this node's own clients ran where it did; 404 for one that is not known any more.

        `made` is false where no decision is kept, since a kept answer needed none or it is too long ago: then this is
        the one that would be made now.
        """
        check_own_page(request)
        identifier = request.path_params["id"]
        wish = self._doors.recent.wish_of(identifier)
        if wish is None:
            raise HTTPException(404, "This node has no such request, or not any more.")
        return _json(self._doors.explain(Job(id=identifier, wish=wish, turns=())))

    async def invite(self, request: Request) -> Response:
        """A ticket for one more device, only for who sits at this machine. Raises NotAllowed, BadRequest."""
        check_own_page(request)
        check_here(request)
        try:
            body = msgspec.json.decode(await read_json_body(request), type=InviteBody)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"That is no invitation: {error}.", param="expires_s") from error
        ticket = await self._doors.invite(body.expires_s)
        return _json(Invitation(ticket, body.expires_s, _rows(ticket)))


def check_own_page(request: Request) -> None:
    """Refuse what another web page has sent, also one that `api_origins` lets use the rest of the API."""
    host = request.headers.get("host", "").lower()
    own = (f"http://{host}", f"https://{host}")
    if any(origin.lower() not in own for origin in request.headers.getlist("origin")):
        raise HTTPException(403, "Only this node's own page may ask for this.")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HTTPException(403, "Only this node's own page may ask for this.")


def check_here(request: Request) -> None:
    """Refuse what comes from another machine, or may have come from one by way of a proxy here."""
    named = request.url.hostname in {name.strip("[]") for name in LOOPBACK_HOSTS}
    passed_on = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "via"))
    client = request.client.host if request.client else ""
    if passed_on or not named or not _is_loopback(client):
        raise HTTPException(
            403, "Invitations are made at the machine itself: open its page there, or use `meshnode invite`."
        )


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX):
        raise BadRequest("`after` is the number of a line.", param="after")
    return int(text)


def _rows(text: str) -> tuple[str, ...]:
    return tuple("".join("1" if dark else "0" for dark in row) for row in modules(text))


def _json(content: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(content), 200, HEADERS, media_type="application/json")
