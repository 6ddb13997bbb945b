"""Connections to upstreams below HTTP: httpcore's own, except that a request leaves in one piece.

httpcore writes the head and the body of a request one after the other, which wakes the other end twice.
"""

import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import httpcore2
import httpx2


def connections(*, most: int, kept: int, keep_s: float, tls: bool) -> httpcore2.AsyncConnectionPool:
    """A pool of at most so many connections, of which idle ones are kept for a while; no proxy is used."""
    return httpcore2.AsyncConnectionPool(
        ssl_context=httpx2.create_ssl_context(trust_env=False) if tls else None,
        max_connections=most,
        max_keepalive_connections=kept,
        keepalive_expiry=keep_s,
        network_backend=_Backend(),
    )


class _Joined(httpcore2.AsyncNetworkStream):
    """A connection whose writes wait for the next read."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._unsent: list[bytes] = []

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unsent.append(buffer)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._unsent:
            buffer, self._unsent = b"".join(self._unsent), []
            with suppress(httpcore2.WriteError):  # there may be an answer all the same
                await self._stream.write(buffer, timeout)
        return await self._stream.read(max_bytes, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return _Joined(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.TrioBackend):
    """Makes such connections."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Joined(await super().connect_tcp(host, port, timeout, local_address, socket_options))
