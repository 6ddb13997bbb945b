"""Who may speak to the API: programs that address this machine by its own name, and no foreign web page.

A browser will send requests to 127.0.0.1 for any page, and a name that resolves to 127.0.0.1 makes them
same-origin (DNS rebinding); the Host list stops the second, the Origin rule and the JSON type the first.
"""

import ipaddress
import math
from collections.abc import Iterable

import trio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshnode.api.errors import http_response
from meshwire.limits import PROMPT_MAX

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
BODY_MAX = PROMPT_MAX + 256 * 1024  # a prompt of full length, its JSON and its options
BODY_READ_S = 30.0
DISCARD_MAX = 8 * BODY_MAX  # what is read of a refused body, so that the refusal arrives before the cut
DISCARD_S = 5.0
HEADERS_MAX = 100
HEAD_BYTES_MAX = 32 * 1024


class Guard:
    """Middleware that refuses foreign Host and Origin headers, too many, websockets, and leaves no body unread.

    `origins` are pages from elsewhere that may call. With `addresses` any address may stand in a Host header:
    where no name is looked up, none can be rebound.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Iterable[str] = (), origins: Iterable[str] = (), addresses: bool = False
    ) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._addresses = addresses
        self._hosts = frozenset(name.lower() for name in (*LOOPBACK_HOSTS, *map(_bracketed, hosts)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "no websockets here"})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif refusal := self._refusal(Headers(scope=scope)):
            await Unread(http_response(refusal))(scope, receive, draining(send, receive))
        else:
            await self._app(scope, receive, draining(send, receive))

    def _refusal(self, headers: Headers) -> HTTPException | None:
        size = sum(len(name) + len(value) for name, value in headers.raw)
        if len(headers.raw) > HEADERS_MAX or size > HEAD_BYTES_MAX:
            return HTTPException(431, f"At most {HEADERS_MAX} headers and {HEAD_BYTES_MAX} bytes are read.")
        host = headers.get("host", "").lower()
        if len(headers.getlist("host")) != 1 or not self._is_ours(_without_port(host)):
            return HTTPException(403, "The Host header names another machine; use 127.0.0.1 or localhost.")
        origins = headers.getlist("origin")
        own = (f"http://{host}", f"https://{host}")
        if any(origin.lower() not in own and origin not in self._origins for origin in origins):
            return HTTPException(403, "Web pages from elsewhere may not use this API.")
        return None

    def _is_ours(self, name: str) -> bool:
        return name in self._hosts or (self._addresses and _is_address(name))


async def read_json_body(request: Request) -> bytes:
    """The whole body of a JSON request. Raises HTTPException 415, 413 or 408."""
    _check_json(request.headers)
    try:
        with trio.fail_after(BODY_READ_S):
            return await _read_bounded(request)
    except trio.TooSlowError:
        raise HTTPException(408, "The request's body did not arrive in time.") from None


async def discard_body(receive: Receive) -> None:
    """Read what is left of a body without keeping it; bounded in bytes and time."""
    taken = 0
    with trio.move_on_after(DISCARD_S):
        while taken <= DISCARD_MAX:
            message = await receive()
            taken += len(message.get("body", b""))
            if not _more(message):
                return


class Unread(Response):
    """A response to a request whose body nobody has read: it is read away first.

    Else the connection would end with it, perhaps before the client has read the response.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status_code, dict(response.headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read what is left of the body, then respond."""
        await discard_body(receive)
        await super().__call__(scope, receive, send)


def draining(send: Send, receive: Receive) -> Send:
    """A `send` that keeps reading while it ends the response.

    The server queues a body's parts for the application and, at the end, waits for room in the same queue: an
    answer to a body that nobody read would hang, and its connection with it.
    """

    async def drained(message: Message) -> None:
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await send(message)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain, receive)
            await send(message)
            nursery.cancel_scope.cancel()

    return drained


async def _drain(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_bounded(request: Request) -> bytes:
    declared = _declared_length(request.headers)
    parts: list[bytes] = []
    total = 0
    more = True
    while more and total <= BODY_MAX and declared <= BODY_MAX:
        message = await request.receive()
        parts.append(message.get("body", b""))
        total += len(parts[-1])
        more = _more(message)
    if total > BODY_MAX or declared > BODY_MAX:
        if more:
            await discard_body(request.receive)
        raise HTTPException(413, f"The request is larger than {BODY_MAX} bytes.")
    return b"".join(parts)


def _more(message: Message) -> bool:
    return message["type"] == "http.request" and bool(message.get("more_body", False))


def _declared_length(headers: Headers) -> float:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else math.inf


def _check_json(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "Send the request with content-type: application/json.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Send the request's body uncompressed.")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and (port.isdigit() or not port) and not port.endswith("]") else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
