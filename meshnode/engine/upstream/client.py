"""One HTTP client for one upstream: bounded in time and bytes, its failures in the mesh's words.

It knows neither jobs nor answers. A response's body is only ever left by cancelling the wait for its next
bytes: httpcore's readers are nested generators, and one that is abandoned half-way stays open until it is
collected. It speaks to httpcore itself: the layers of httpx above it take a quarter of the time that a request takes.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpcore2
import msgspec
import trio

from meshnode.engine.upstream.failures import RETRY_AFTER_S, failure_of
from meshnode.engine.upstream.transport import connections
from meshnode.errors import EngineFailed, MeshError

CONNECT_S = 5.0
SILENCE_S = 120.0  # a server may load a large model, or read a long prompt, before its first word
ERROR_BODY_BYTES_MAX = 64 * 1024
SPARE_CONNECTIONS = 2  # beside the runs: for looking at what it offers
EVENT_STREAM = "text/event-stream"
JSON = ("content-type", "application/json")

BROKEN = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol)

Take = Callable[[bytes], bool]
"""Takes some bytes of a body; False when no more are wanted."""


class Fate:
    """How far a request has come, for whoever pays for it."""

    def __init__(self) -> None:
        self.sent = self.refused = False

    @property
    def free(self) -> bool:
        """Whether nothing can have been computed for it."""
        return self.refused or not self.sent


class Client:
    """Requests to one upstream. A redirect is not followed: it could lead the key elsewhere.

    A path is relative to OpenAI's, which is `/v1` unless `url` has one; with a `/` before it, to the server's.
    Idle connections are kept for `keep_s`.
    """

    def __init__(
        self, url: str, key: str, *, runs: int, silence_s: float = SILENCE_S, keep_s: float = 0.0
    ) -> None:
        self._key = key.encode()
        given = url.rstrip("/")
        self._api = given if urlsplit(given).path else f"{given}/v1"
        self._root = self._api.removesuffix("/v1")
        self._headers = [("user-agent", "meshnode"), ("accept", "*/*")]
        self._headers += [("authorization", f"Bearer {key}")] if key else []
        waits = {"connect": CONNECT_S, "pool": silence_s, "read": silence_s, "write": silence_s}
        self._extensions = {"timeout": waits}
        # With keep_s 0 a connection for each request: servers close idle ones just as one is used again.
        self._pool = connections(
            most=runs + SPARE_CONNECTIONS,
            kept=runs if keep_s else 0,
            keep_s=keep_s,
            tls=url.startswith("https"),
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def fetch(
        self,
        path: str,
        body: object = None,
        *,
        most_bytes: int,
        within_s: float,
        fate: Fate | None = None,
    ) -> Any:
        """The JSON at a path, by GET, or by POST where there is a body. Raises MeshError."""
        gathered = _Gathered(most_bytes)
        with trio.move_on_after(within_s) as in_time:
            await self._exchange(path, body, gathered.take, expected="", fate=fate or Fate())
        if in_time.cancelled_caught:
            raise EngineFailed(f"The upstream server did not answer within {within_s:g} s.")
        if gathered.too_much:
            raise EngineFailed(f"The upstream server sent more than {most_bytes} bytes.")
        try:
            return msgspec.json.decode(gathered.content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise EngineFailed("The upstream server sent something that is not JSON.") from None

    async def pour(self, path: str, body: object, take: Take, fate: Fate | None = None) -> None:
        """Send `body`, and hand on the events' bytes as they come. Raises MeshError."""
        await self._exchange(path, body, take, expected=EVENT_STREAM, fate=fate or Fate())

    async def _exchange(self, path: str, body: object, take: Take, *, expected: str, fate: Fate) -> None:
        content = None if body is None else msgspec.json.encode(body)
        fate.sent = True
        try:
            async with self._pool.stream(
                "GET" if content is None else "POST",
                f"{self._root}{path}" if path.startswith("/") else f"{self._api}/{path}",
                content=content,
                headers=self._headers if content is None else [*self._headers, JSON],
                extensions=self._extensions,
            ) as response:
                if response.status != HTTPStatus.OK:
                    fate.refused = True
                    raise await self._refusal(response)
                if not _header(response, b"content-type").startswith(expected):
                    raise EngineFailed("The upstream server did not stream its answer.")
                await _read(response, take)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.PoolTimeout):
            fate.refused = True
            raise EngineFailed("The upstream server is not running.", retry_after_s=RETRY_AFTER_S) from None
        except httpcore2.TimeoutException:
            raise EngineFailed("The upstream server said nothing for too long.") from None
        except BROKEN as error:
            raise EngineFailed(
                f"The connection to the upstream server broke ({type(error).__name__}).",
                retry_after_s=RETRY_AFTER_S,
            ) from None

    async def _refusal(self, response: httpcore2.Response) -> MeshError:
        """The error for a response that is none; should the server repeat the key, nobody sees it."""
        gathered = _Gathered(ERROR_BODY_BYTES_MAX)
        with trio.move_on_after(CONNECT_S):
            await _read(response, gathered.take)
        told = bytes(gathered.content)
        told = told.replace(self._key, b"(the key)") if self._key else told
        return failure_of(response.status, told, _header(response, b"retry-after"))


def _header(response: httpcore2.Response, name: bytes) -> str:
    found = (value for key, value in response.headers if key.lower() == name)
    return next(found, b"").decode("latin-1")


async def _read(response: httpcore2.Response, take: Take) -> None:
    with trio.CancelScope() as enough:
        async for received in response.aiter_stream():
            if not take(received):
                enough.cancel()  # and not `break`, which would leave the generators open


class _Gathered:
    """A body in one piece, up to a bound."""

    def __init__(self, most_bytes: int) -> None:
        self.content = bytearray()
        self.too_much = False
        self._most_bytes = most_bytes

    def take(self, received: bytes) -> bool:
        room = self._most_bytes - len(self.content)
        self.too_much = self.too_much or len(received) > room
        self.content += received[:room]
        return not self.too_much
