"""Every refusal in OpenAI's shape: one table from MeshError.code to a status, one for HTTP's own refusals.

It knows statuses and headers, and nothing of why a request failed.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from meshnode.errors import MeshError

HEADER_CHARACTERS_MAX = 256
MESSAGE_CHARACTERS_MAX = 4000

_INVALID = "invalid_request_error"
_SERVER = "server_error"
_UPSTREAM = "upstream_error"


class Shape(NamedTuple):
    """How one kind of error looks from outside. `final` tells SDKs, which retry by status, not to."""

    status: int
    type: str
    final: bool = False


TABLE: Mapping[str, Shape] = {
    "internal_error": Shape(500, _SERVER),
    "invalid_request": Shape(400, _INVALID),
    "context_length_exceeded": Shape(400, _INVALID),
    "model_not_found": Shape(404, _INVALID),
    "no_candidate": Shape(503, "service_unavailable_error", final=True),
    "budget_exceeded": Shape(402, "insufficient_quota", final=True),
    "busy": Shape(429, "rate_limit_error"),
    "yielded": Shape(429, "rate_limit_error"),
    "deadline_exceeded": Shape(504, "timeout_error", final=True),
    "interrupted": Shape(503, _UPSTREAM),
    "engine_failed": Shape(503, _SERVER),
    "engine_crashed": Shape(503, _SERVER),
    "model_file_invalid": Shape(500, _SERVER, final=True),
    "download_failed": Shape(503, _SERVER),
    "unreachable": Shape(502, _UPSTREAM),
    "wrong_protocol": Shape(502, _UPSTREAM, final=True),
    "wrong_mesh": Shape(502, _UPSTREAM, final=True),
    "join_refused": Shape(403, "permission_error", final=True),
    "ticket_invalid": Shape(400, _INVALID),
    "ticket_expired": Shape(403, "permission_error", final=True),
    "ticket_used": Shape(403, "permission_error", final=True),
    "ticket_unknown": Shape(403, "permission_error", final=True),
    "clock_skew": Shape(403, "permission_error", final=True),
    "revoked": Shape(403, "permission_error", final=True),
    "not_allowed": Shape(403, "permission_error", final=True),
    "invalid_api_key": Shape(401, _INVALID, final=True),
    "rate_limit_exceeded": Shape(429, "rate_limit_error"),
    "config_invalid": Shape(500, _SERVER, final=True),
    "home_unusable": Shape(500, _SERVER, final=True),
    "home_in_use": Shape(500, _SERVER, final=True),
    "port_in_use": Shape(500, _SERVER, final=True),
    "audit_broken": Shape(500, _SERVER, final=True),
    "check_failed": Shape(500, _SERVER, final=True),
    "service_failed": Shape(500, _SERVER, final=True),
    "not_running": Shape(503, _SERVER),
}

HTTP_CODES: Mapping[int, str] = {
    400: "invalid_request",
    403: "origin_not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    431: "headers_too_large",
}


class ErrorBody(msgspec.Struct, frozen=True):
    """OpenAI's error object; all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class Envelope(msgspec.Struct, frozen=True):
    """What is sent: the error under its one key."""

    error: ErrorBody


def shape_of(error: MeshError) -> Shape:
    """Status and type; a code from a newer peer counts as an error inside."""
    return TABLE.get(error.code, TABLE["internal_error"])


def error_body(error: MeshError) -> ErrorBody:
    """What a client is told of this error."""
    message = str(error)[:MESSAGE_CHARACTERS_MAX]
    return ErrorBody(message, shape_of(error).type, error.param or None, error.code)


def body_of(error: MeshError) -> bytes:
    """The JSON that tells a client of this error, as a whole response or as a frame of a stream."""
    return _json(error_body(error))


def mesh_response(error: MeshError, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error that came before the answer began."""
    shape = shape_of(error)
    return _response(shape.status, body_of(error), {**_advice(error, shape), **(headers or {})})


def http_response(error: HTTPException) -> Response:
    """The response for what HTTP itself refuses: a path, a method, a size, a media type, an origin."""
    code = HTTP_CODES.get(error.status_code, "invalid_request")
    body = _json(ErrorBody(error.detail, _INVALID, None, code))
    return _response(error.status_code, body, error.headers or {})


def header_text(text: str) -> str:
    """The text as a header can carry it: names come from other machines, and a line break splits headers."""
    safe = "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
    return safe[:HEADER_CHARACTERS_MAX]


def _advice(error: MeshError, shape: Shape) -> dict[str, str]:
    """What to tell a client about trying again."""
    if error.retry_after_s is not None:
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    return {"x-should-retry": "false"} if shape.final else {}


def _json(body: ErrorBody) -> bytes:
    return msgspec.json.encode(Envelope(body))


def _response(status: int, body: bytes, headers: Mapping[str, str]) -> Response:
    return Response(body, status, dict(headers), media_type="application/json")
