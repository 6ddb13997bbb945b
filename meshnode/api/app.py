"""The API as one ASGI application: paths to endpoints, and every refusal in one shape."""

from collections.abc import Iterable

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from meshnode.api.chat import Chat
from meshnode.api.doors import Doors
from meshnode.api.embeddings import Embeddings
from meshnode.api.errors import http_response, mesh_response
from meshnode.api.guard import Guard
from meshnode.api.models import Models
from meshnode.api.responses.endpoint import Responses
from meshnode.errors import MeshError
from meshnode.observe import log

_logger = log.get("api")


def build(doors: Doors, *, hosts: Iterable[str] = ()) -> ASGIApp:
    """The application. `hosts` are names, beyond loopback's own, that a Host header may carry."""
    models = Models(doors)
    app = Starlette(
        routes=[
            Route("/healthz", HealthCheck(doors).answer, methods=["GET"]),
            Route("/v1/models", models.every, methods=["GET"]),
            Route("/v1/models/{name:path}", models.one, methods=["GET"]),
            Route("/v1/chat/completions", Chat(doors), methods=["POST"]),
            Route("/v1/responses", Responses(doors), methods=["POST"]),
            Route("/v1/embeddings", Embeddings(doors), methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _on_http_error,
            MeshError: _on_mesh_error,
            Exception: _on_unforeseen,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, hosts=hosts)


class Health(msgspec.Struct, frozen=True):
    """That the API answers, and how far the node behind it has come."""

    status: str
    state: str


class HealthCheck:
    """GET /healthz: instant, whatever the engine is doing."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def answer(self, _request: Request) -> Response:
        """200 as soon as the API is up; `state` says whether a model is ready yet."""
        health = Health("ok", self._doors.snapshot().state)
        return Response(msgspec.json.encode(health), media_type="application/json")


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return http_response(error)


async def _on_mesh_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MeshError)
    return mesh_response(error)


async def _on_unforeseen(request: Request, error: Exception) -> Response:
    _logger.error("request failed", path=request.url.path, exc_info=error)
    return mesh_response(MeshError("Something went wrong inside the node.", hint=f"See {log.FILE_NAME}."))
