"""What those who run a node ask of it: whether it is up, whether it could serve now, and its metrics.

It knows no peers; what is behind the doors tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from meshnode.api.doors import Doors
from meshnode.errors import BadRequest
from meshnode.observe.metrics import CONTENT_TYPE
from meshnode.terms import Privacy, Wish

MODEL_CHARACTERS_MAX = 256
_ASKED = ("model", "privacy")


class Health(msgspec.Struct, frozen=True):
    """That the API answers, and how far the node behind it has come."""

    status: str
    state: str


class HealthChecks:
    """GET /healthz, /readyz and /metrics: instant, whatever the engine is doing."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def alive(self, _request: Request) -> Response:
        """200 as soon as the API is up; `state` says whether a model is ready yet."""
        health = Health("ok", self._doors.snapshot().state)
        return Response(msgspec.json.encode(health), media_type="application/json")

    async def ready(self, request: Request) -> Response:
        """200 only if a request could be served now, else 503 with the reasons.

        Without parameters it is a request that names nothing; `model` and `privacy` ask for one that does.
        """
        found = self._doors.readiness(_wish_of(request.query_params))
        headers = {}
        if found.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(found.retry_after_s)))
        status = 200 if found.ready else 503
        return Response(msgspec.json.encode(found), status, headers, media_type="application/json")

    async def metrics(self, _request: Request) -> Response:
        """What Prometheus reads. The format is always the same: what a client says it accepts is not read."""
        return Response(self._doors.metrics(), headers={"content-type": CONTENT_TYPE})


def _wish_of(given: Mapping[str, str]) -> Wish:
    for name in given:
        if name not in _ASKED:
            raise BadRequest(
                f"There is no parameter {name[:40]!r}.", hint="There are: model, privacy.", param=name[:40]
            )
    model, privacy = given.get("model", ""), given.get("privacy", Privacy.PRIVATE)
    if len(model) > MODEL_CHARACTERS_MAX:
        raise BadRequest(f"A model's name has at most {MODEL_CHARACTERS_MAX} characters.", param="model")
    try:
        return Wish(model=model, privacy=Privacy(privacy))
    except ValueError:
        known = ", ".join(Privacy)
        raise BadRequest(
            f"There is no privacy class {privacy[:40]!r}.", hint=f"There are: {known}.", param="privacy"
        ) from None
