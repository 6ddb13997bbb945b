"""The barest gateway that the libraries of a node make: hypercorn, starlette and httpx2; bytes pass as they come.

It keeps nothing, checks nothing and knows no models: what it adds is what any gateway of these libraries adds.
Usage: passthrough.py PORT API_PORT.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


def application(api_port: int) -> Starlette:
    """The gateway in front of the API at this port."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{api_port}") as app.state.client:
            yield

    async def pass_on(request: Request) -> StreamingResponse:
        client: httpx2.AsyncClient = request.app.state.client
        asked = client.build_request("POST", PATH, content=await request.body(), headers=JSON)
        answer = await client.send(asked, stream=True)
        headers = {"content-type": answer.headers["content-type"]}
        return StreamingResponse(_body(answer), answer.status_code, headers)

    return Starlette(routes=[Route(PATH, pass_on, methods=["POST"])], lifespan=lifespan)


async def _body(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for received in answer.aiter_raw():
            yield received
    finally:
        await answer.aclose()


def main() -> None:
    """Serve until killed."""
    settings = Config()
    settings.bind = [f"127.0.0.1:{sys.argv[1]}"]
    settings.accesslog = None
    trio.run(serve, application(int(sys.argv[2])), settings)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
