"""The command's side of the control socket: one call, its events, its result or its error."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from meshnode import errors
from meshnode.api.control_socket import ANSWER_BYTES_MAX, Failure, Request, socket_path
from meshnode.errors import MeshError, NotRunning
from meshnode.observe.snapshot import Snapshot

RECEIVE_BYTES = 64 * 1024
R = TypeVar("R")
OnEvent = Callable[[dict[str, Any]], None]


class Line(msgspec.Struct, frozen=True):
    """One line from the node that is no event."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    error: Failure | None = None
    event: str = ""


def _ignore(_event: dict[str, Any]) -> None:
    """For callers who only want the result."""


async def call(
    home: Path, verb: str, args: Mapping[str, object], kind: type[R], on_event: OnEvent = _ignore
) -> R:
    """Ask the node of this home and wait for its answer.

    Raises NotRunning when there is none or it stops meanwhile, and the node's own MeshError.
    """
    stream = await _connected(home)
    async with stream:
        try:
            await stream.send_all(msgspec.json.encode(Request(verb, dict(args))) + b"\n")
            return await _answer(stream, kind, on_event)
        except trio.BrokenResourceError as error:
            raise NotRunning("The node stopped before it answered.") from error


async def status(home: Path) -> Snapshot:
    """What the node of this home looks like. Raises NotRunning."""
    return await call(home, "status", {}, Snapshot)


async def _connected(home: Path) -> trio.SocketStream:
    path = socket_path(home)
    try:
        if path.stat().st_uid != os.getuid():  # the temporary place is everybody's
            raise NotRunning(f"{path} belongs to another user.")
        return await trio.open_unix_socket(os.fspath(path))
    except OSError as error:
        raise NotRunning(
            f"No node runs from {home}.", hint="Start one with `meshnode up`, or name its --home."
        ) from error


async def _answer(stream: trio.SocketStream, kind: type[R], on_event: OnEvent) -> R:
    waiting = b""
    while len(waiting) <= ANSWER_BYTES_MAX:
        data = await stream.receive_some(RECEIVE_BYTES)
        if not data:
            raise NotRunning("The node stopped before it answered.")
        *lines, waiting = (waiting + data).split(b"\n")
        for raw in lines:
            line = msgspec.json.decode(raw, type=Line)
            if line.event:
                on_event(msgspec.json.decode(raw))
                continue
            if line.error is not None:
                raise _error_of(line.error)
            return msgspec.json.decode(line.result, type=kind)
    raise MeshError(f"The node's answer is longer than {ANSWER_BYTES_MAX} bytes.")


def _error_of(failure: Failure) -> MeshError:
    return errors.from_code(
        failure.code,
        failure.message,
        hint=failure.hint,
        param=failure.param,
        retry_after_s=failure.retry_after_s,
    )
