"""A commercial API as a process of its own, for tests: it notes each request in a file, then answers and counts.

Usage: paid_api.py NOTES PROMPT_TOKENS ANSWER_TOKENS DELAY_S. Its first line of output is its port. What it notes of a
request is written before it answers, so that a killed client's requests are counted too.
"""

import json
import os
import sys
from functools import partial

import h11
import trio


async def answer(
    stream: trio.SocketStream, *, notes: int, prompt: int, completion: int, delay_s: float
) -> None:
    """The requests of one connection."""
    http = h11.Connection(h11.SERVER)
    async with stream:
        while True:
            body = await _request(http, stream)
            if body is None:
                return
            os.write(notes, (json.dumps(body) + "\n").encode())
            usage = {"prompt_tokens": prompt, "completion_tokens": completion}
            chunks = [
                {"choices": [{"index": 0, "delta": {"content": "Paid."}, "finish_reason": None}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [], "usage": usage},
            ]
            await _send(http, stream, h11.Response(status_code=200, headers=_headers("text/event-stream")))
            await trio.sleep(delay_s)
            for chunk in chunks:
                await _send(http, stream, h11.Data(b"data: " + json.dumps(chunk).encode() + b"\n\n"))
            await _send(http, stream, h11.Data(b"data: [DONE]\n\n"))
            await _send(http, stream, h11.EndOfMessage())
            http.start_next_cycle()


def _headers(kind: str) -> list[tuple[str, str]]:
    return [("content-type", kind), ("transfer-encoding", "chunked")]


async def _send(http: h11.Connection, stream: trio.SocketStream, event: h11.Event) -> None:
    await stream.send_all(http.send(event))


async def _request(http: h11.Connection, stream: trio.SocketStream) -> dict[str, object] | None:
    body = b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return json.loads(body)
        elif isinstance(event, h11.ConnectionClosed):
            return None


async def main(path: str, prompt: str, completion: str, delay_s: str) -> None:
    """Serve until killed."""
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    serve = partial(
        _guarded, notes=notes, prompt=int(prompt), completion=int(completion), delay_s=float(delay_s)
    )
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=512)
    print(listener.socket.getsockname()[1], flush=True)
    await trio.serve_listeners(serve, [listener])


async def _guarded(stream: trio.SocketStream, **how: object) -> None:
    try:
        await answer(stream, **how)  # type: ignore[arg-type]
    except (trio.BrokenResourceError, h11.RemoteProtocolError):
        return  # the client has left


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
