"""What an upstream's refusal means to the mesh: one table from status and words to MeshError. Pure.

A message of the upstream reaches a caller only where the request is at fault, cut short; what concerns the
owner's key or account never does, for servers like to repeat the key.
"""

import re
from http import HTTPStatus
from typing import Any

import msgspec

from meshnode.errors import BadRequest, Busy, ContextExceeded, EngineFailed, MeshError, ModelNotFound

MESSAGE_CHARACTERS_MAX = 400
RETRY_AFTER_MAX_S = 3600.0
RETRY_AFTER_S = 1.0  # where the upstream names no time

_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|context (length|window|size)|maximum context|n_ctx\b",
    re.IGNORECASE,
)
_ASKED_WRONG = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
_OWNERS_MATTER = (HTTPStatus.UNAUTHORIZED, HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.FORBIDDEN)


def failure_of(status: int, body: bytes, retry_after: str = "") -> MeshError:
    """The error for a response that is not the answer asked for."""
    if status in _OWNERS_MATTER:
        return EngineFailed(
            f"The upstream server refuses this node ({status}).",
            hint="The owner of the node should look at the upstream's API key.",
        )
    message, kind = _told(body)
    reason = _shown(message) or "no reason given"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or _CONTEXT.search(f"{message} {kind}"):
        return ContextExceeded(f"The upstream server finds it too long: {reason}", param="messages")
    if status in _ASKED_WRONG:
        return BadRequest(f"The upstream server refuses the request: {reason}")
    if status == HTTPStatus.NOT_FOUND:
        return ModelNotFound("The upstream server does not have the model (any more).", param="model")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Busy("The upstream server takes no more work now.", retry_after_s=_seconds(retry_after))
    return EngineFailed(f"The upstream server failed ({status}).", retry_after_s=RETRY_AFTER_S)


def failure_in_stream(error: object) -> MeshError:
    """The error for an error object that came in the middle of an answer."""
    body = msgspec.json.encode({"error": error})
    status = error.get("code") if isinstance(error, dict) else None
    return failure_of(status if isinstance(status, int) else HTTPStatus.INTERNAL_SERVER_ERROR, body)


def _told(body: bytes) -> tuple[str, str]:
    """What is wrong, and of which kind that is: in OpenAI's shape, FastAPI's, or plain text."""
    try:
        decoded: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace"), ""
    if not isinstance(decoded, dict):
        return "", ""
    error = decoded.get("error", decoded.get("detail", decoded.get("message", "")))
    if isinstance(error, dict):
        return str(error.get("message", "")), f"{error.get('type')} {error.get('code')}"
    return str(error), ""


def _shown(text: str) -> str:
    """As much of it as a person should see, on one line."""
    safe = "".join(char if char.isprintable() else " " for char in text[: 4 * MESSAGE_CHARACTERS_MAX])
    return " ".join(safe.split())[:MESSAGE_CHARACTERS_MAX]


def _seconds(retry_after: str) -> float:
    """The seconds of a Retry-After header; one that names a date, or nonsense, counts as none."""
    try:
        return min(max(RETRY_AFTER_S, float(retry_after)), RETRY_AFTER_MAX_S)
    except ValueError:
        return RETRY_AFTER_S
