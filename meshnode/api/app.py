"""The API as one ASGI application: paths to endpoints, and every refusal in one shape."""

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from meshnode.api.chat import Chat
from meshnode.api.dashboard.admin import STATE, Admin
from meshnode.api.dashboard.page import FOLDER, Page
from meshnode.api.doors import Doors
from meshnode.api.embeddings import Embeddings
from meshnode.api.errors import http_response, mesh_response
from meshnode.api.guard import Guard, Unread
from meshnode.api.health import HealthChecks
from meshnode.api.keys import KeyCheck, Keys
from meshnode.api.models import Models
from meshnode.api.reception import Reception
from meshnode.api.responses.endpoint import Responses
from meshnode.api.text.endpoint import TextCompletions
from meshnode.api.traffic import Traffic
from meshnode.errors import MeshError
from meshnode.observe import log

UNREAD = (404, 405)  # no endpoint has read the body, and with one unread the connection would end
CORS_METHODS = ("GET", "POST")
CORS_MAX_AGE_S = 600
CORS_EXPOSED = (
    *("x-request-id", "retry-after", "x-should-retry", "x-mesh-job", "x-mesh-served-by", "x-mesh-path"),
    *("x-mesh-model", "x-mesh-tier", "x-mesh-rung", "x-mesh-trust", "x-mesh-attempts", "x-mesh-decision"),
    *("x-mesh-cache", "x-mesh-similarity"),
    *("x-mesh-price-usd", "x-mesh-price-most-usd", "x-mesh-price-per-million-usd"),
)

_logger = log.get("api")


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may call, and how much.

    `hosts` are names, beyond loopback's own, that a Host header may carry, `origins` web pages from elsewhere. A
    `public` API listens off loopback. Without `keys` nobody has one; with `require_key` everybody needs one.
    """

    hosts: Iterable[str] = ()
    origins: tuple[str, ...] = ()
    public: bool = False
    keys: Keys | None = None
    require_key: bool = False
    request_s: float = 3600.0


def build(doors: Doors, rules: Rules | None = None, traffic: Traffic | None = None) -> ASGIApp:
    """The application, with everything around it that a request meets before its endpoint."""
    rules = rules or Rules()
    app: ASGIApp = _endpoints(doors)
    if rules.keys is not None:
        app = KeyCheck(app, rules.keys, required=rules.require_key or rules.public)
    if rules.origins:
        app = _cors(app, rules.origins)
    app = Guard(app, hosts=rules.hosts, origins=rules.origins, addresses=rules.public)
    return Reception(app, doors, traffic or Traffic(), rules.request_s)


def _cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """What browsers want to hear of pages from elsewhere; keys travel in a header, so no cookies are let through."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=CORS_METHODS,
        allow_headers=["*"],
        expose_headers=CORS_EXPOSED,
        max_age=CORS_MAX_AGE_S,
    )


def _endpoints(doors: Doors) -> Starlette:
    models, checks, page, admin = Models(doors), HealthChecks(doors), Page(), Admin(doors)
    app = Starlette(
        routes=[
            Route("/", page.index, methods=["GET"]),
            Route(f"{FOLDER}{{name}}", page.part, methods=["GET"]),
            Route(STATE, admin.state, methods=["GET"]),
            Route("/admin/requests/{id}", admin.decision, methods=["GET"]),
            Route("/admin/invite", admin.invite, methods=["POST"]),
            Route("/healthz", checks.alive, methods=["GET"]),
            Route("/readyz", checks.ready, methods=["GET"]),
            Route("/metrics", checks.metrics, methods=["GET"]),
            Route("/v1/models", models.every, methods=["GET"]),
            Route("/v1/models/{name:path}", models.one, methods=["GET"]),
            Route("/v1/chat/completions", Chat(doors), methods=["POST"]),
            Route("/v1/completions", TextCompletions(doors), methods=["POST"]),
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
    return app


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = http_response(error)
    return Unread(response) if error.status_code in UNREAD else response


async def _on_mesh_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MeshError)
    return mesh_response(error)


async def _on_unforeseen(request: Request, error: Exception) -> Response:
    _logger.error("request failed", path=request.url.path, exc_info=error)
    return mesh_response(MeshError("Something went wrong inside the node.", hint=f"See {log.FILE_NAME}."))
