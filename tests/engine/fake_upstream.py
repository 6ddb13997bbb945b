"""A server on loopback that answers what it is told to, in OpenAI's shapes or broken in any way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import msgspec
import trio

MODELS = {"object": "list", "data": [{"id": "Qwen/Qwen2.5-7B-Instruct", "owned_by": "somebody"}]}
STREAM = "text/event-stream"


@dataclass
class Reply:
    """How to answer one request. After `parts` the body ends, or the connection is cut, or nothing comes."""

    status: int = 200
    parts: list[bytes] = field(default_factory=list)
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: bool = False


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeUpstream:
    """What it answers, by path, and what it was asked; `left` counts connections that were closed on it."""

    url: str = ""
    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    open: int = 0
    left: int = 0

    def chat(self) -> Any:
        """The body of the last completion that was asked for."""
        return [asked.body for asked in self.asked if asked.path == "/v1/chat/completions"][-1]

    async def serve_one(self, stream: trio.SocketStream) -> None:
        """One connection."""
        http = h11.Connection(h11.SERVER)
        self.open += 1
        try:
            async with stream:
                reply = self._note(*await _request(http, stream))
                await self._answer(http, stream, reply)
        except trio.BrokenResourceError:
            self.left += 1
        finally:
            self.open -= 1

    def _note(self, request: h11.Request, body: bytes) -> Reply:
        headers = {name.decode(): value.decode() for name, value in request.headers}
        path = request.target.decode()
        self.asked.append(
            Asked(request.method.decode(), path, headers, msgspec.json.decode(body) if body else None)
        )
        return self.replies.get(path, Reply(404, [b'{"error":{"message":"no such path"}}']))

    async def _answer(self, http: h11.Connection, stream: trio.SocketStream, reply: Reply) -> None:
        headers = [*{"content-type": reply.kind, "transfer-encoding": "chunked", **reply.headers}.items()]
        await stream.send_all(http.send(h11.Response(status_code=reply.status, headers=headers)))
        for part in reply.parts:
            await stream.send_all(http.send(h11.Data(part)))
        if reply.hang:
            if not await stream.receive_some():
                self.left += 1
        elif not reply.cut:
            await stream.send_all(http.send(h11.EndOfMessage()))


async def _request(http: h11.Connection, stream: trio.SocketStream) -> tuple[h11.Request, bytes]:
    request, body = None, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(request, h11.Request)
            return request, body


@asynccontextmanager
async def fake_upstream(**replies: Reply) -> AsyncIterator[FakeUpstream]:
    """A server with one model; `chat` and `embeddings` are its answers there."""
    fake = FakeUpstream()
    fake.replies = {
        "/v1/models": replies.get("models", Reply(parts=[msgspec.json.encode(MODELS)])),
        "/v1/chat/completions": replies.get("chat", answer("Hello", " there")),
        "/v1/embeddings": replies.get("embeddings", Reply(404)),
    }
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, fake.serve_one, 0, host="127.0.0.1"))
        fake.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield fake
        nursery.cancel_scope.cancel()


def event(payload: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + (payload if isinstance(payload, bytes) else msgspec.json.encode(payload)) + b"\n\n"


def delta(**message: Any) -> bytes:
    """A chunk that adds to the message."""
    return event({"choices": [{"index": 0, "delta": message, "finish_reason": None}]})


def ended(reason: str = "stop") -> bytes:
    """The chunk that ends the message."""
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def counted(prompt: int, completion: int, **more: Any) -> bytes:
    """The chunk with the usage."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}, **more})


def answer(*texts: str) -> Reply:
    """A whole streamed answer."""
    parts = [delta(role="assistant", content=""), *(delta(content=text) for text in texts), ended()]
    return Reply(parts=[*parts, counted(5, len(texts)), event(b"[DONE]")], kind=STREAM)


def streamed(*parts: bytes, **how: Any) -> Reply:
    """A streamed answer of these parts, as broken as it is told."""
    return Reply(parts=list(parts), kind=STREAM, **how)
