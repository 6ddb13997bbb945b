"""An OpenAI-compatible server that answers at once, as a process of its own: what a gateway adds is measured by it.

Usage: mock_api.py PORT. The model `short` answers in 4 chunks, `long` in 64, each written by itself, one after the
other. It does as little as it can, so that it is not what is measured.
"""

import asyncio
import json
import sys

CHUNKS = {"short": 4, "long": 64}
WORD = "word "


def _event(payload: object) -> bytes:
    data = b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunk(model: str, **more: object) -> dict[str, object]:
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, **more}


def _usage(model: str) -> dict[str, int]:
    return {"prompt_tokens": 10, "completion_tokens": CHUNKS[model], "total_tokens": 10 + CHUNKS[model]}


def _stream(model: str) -> list[bytes]:
    def choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, object]]:
        return [{"index": 0, "delta": delta, "finish_reason": reason}]

    opening = _chunk(model, choices=choice({"role": "assistant", "content": ""}))
    words = [_chunk(model, choices=choice({"content": WORD})) for _ in range(CHUNKS[model])]
    ending = [_chunk(model, choices=choice({}, "stop")), _chunk(model, choices=[], usage=_usage(model))]
    return [*map(_event, (opening, *words, *ending)), _event(b"[DONE]") + b"0\r\n\r\n"]


def _whole(model: str) -> bytes:
    message = {"role": "assistant", "content": WORD * CHUNKS[model]}
    body = {
        **_chunk(model, choices=[{"index": 0, "message": message, "finish_reason": "stop"}]),
        "object": "chat.completion",
        "usage": _usage(model),
    }
    return json.dumps(body).encode()


STREAMS = {model: _stream(model) for model in CHUNKS}
WHOLES = {model: _whole(model) for model in CHUNKS}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or b"0")
            body = json.loads(await reader.readexactly(size)) if size else {}
            await _answer(writer, body.get("model", "short"), streamed=bool(body.get("stream")))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _answer(writer: asyncio.StreamWriter, model: str, *, streamed: bool) -> None:
    if not streamed:
        whole = WHOLES[model]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(whole) + whole)
        return
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for part in STREAMS[model]:
        writer.write(part)
        await asyncio.sleep(0)


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(_serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
