"""Many streamed chat completions at once, timed as a client sees them. It knows no server.

The client is the same for every server and must cost next to nothing, because it shares the cores with what it
measures: while a stream runs it only reads, notes the time of the first text, and keeps the bytes. They are
taken apart afterwards.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import msgspec
import trio

READ_BYTES = 65_536
FIRST_TEXT = re.compile(rb'"content": ?"[^"]')
LAST_CHUNK = b"\r\n0\r\n\r\n"  # of the body; not every server closes the connection after it at once
CARRIED_BYTES = 32  # the first text and the last chunk may lie across two reads


@dataclass(frozen=True)
class Heard:
    """One answer: seconds to its first text and to its last byte, both since all were asked; and what it was."""

    first_s: float
    ended_s: float
    text: str
    usage: dict[str, int]


async def ask_all(
    url: str, model: str, conversations: Sequence[list[dict[str, str]]], tokens: int
) -> list[Heard]:
    """Ask every conversation at once, each on a connection of its own, and wait for all answers."""
    heard: list[Heard | None] = [None] * len(conversations)
    begun = time.perf_counter()

    async def one(index: int) -> None:
        heard[index] = await _ask(url, _body(model, conversations[index], tokens), begun)

    async with trio.open_nursery() as nursery:
        for index in range(len(conversations)):
            nursery.start_soon(one, index)
    return [answer for answer in heard if answer is not None]


def _body(model: str, messages: list[dict[str, str]], tokens: int) -> bytes:
    return msgspec.json.encode(
        {
            "model": model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


async def _ask(url: str, body: bytes, begun: float) -> Heard:
    place = urlsplit(url)
    talk = h11.Connection(h11.CLIENT)
    stream = await trio.open_tcp_stream(str(place.hostname), place.port or 80)
    async with stream:
        await stream.send_all(_request(talk, place.netloc, body))
        parts: list[bytes] = []
        first = ended = 0.0
        carried = b""
        while received := bytes(await stream.receive_some(READ_BYTES)):
            ended = time.perf_counter()
            parts.append(received)
            carried = carried[-CARRIED_BYTES:] + received
            if not first and FIRST_TEXT.search(carried):
                first = ended
            if carried.endswith(LAST_CHUNK):
                break
    text, usage = _read(talk, b"".join(parts))
    return Heard(first - begun, ended - begun, text, usage)


def _request(talk: h11.Connection, host: str, body: bytes) -> bytes:
    headers = [
        ("Host", host),
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        ("X-Mesh-Cache", "off"),  # which only a node knows
    ]
    request = h11.Request(method="POST", target="/v1/chat/completions", headers=headers)
    events = (request, h11.Data(data=body), h11.EndOfMessage())
    return b"".join(talk.send(event) or b"" for event in events)


def _read(talk: h11.Connection, received: bytes) -> tuple[str, dict[str, int]]:
    """The answer's text, and the token counts if the server told them."""
    talk.receive_data(received)
    talk.receive_data(b"")
    status, body = 0, b""
    while not isinstance(event := talk.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if isinstance(event, h11.Response):
            status = event.status_code
        if isinstance(event, h11.Data):
            body += bytes(event.data)
    if status != 200:
        raise RuntimeError(f"{status}: {body.decode(errors='replace')}")
    return _read_events(body)


def _read_events(body: bytes) -> tuple[str, dict[str, int]]:
    text: list[str] = []
    usage: dict[str, int] = {}
    for line in body.splitlines():
        if not line.startswith(b"data: {"):
            continue
        chunk = msgspec.json.decode(line.removeprefix(b"data: "))
        if "error" in chunk:
            raise RuntimeError(str(chunk["error"]))
        usage = chunk.get("usage") or usage
        text += [choice["delta"].get("content") or "" for choice in chunk.get("choices", ())]
    return "".join(text), usage
