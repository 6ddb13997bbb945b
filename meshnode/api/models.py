"""GET /v1/models: what can be asked for, in OpenAI's shape, with what the mesh knows added under `mesh`."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from meshnode.api.ceiling import may_name
from meshnode.api.doors import Doors
from meshnode.api.visit import visit_of
from meshnode.errors import ModelNotFound
from meshnode.observe.snapshot import ModelView


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """One model as OpenAI lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "meshnode"
    mesh: ModelView


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    object: Literal["list"] = "list"
    data: tuple[ModelShape, ...]


class Models:
    """The two endpoints. `created` is when this API came up, for want of a better date."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._created = int(doors.wall())

    async def every(self, request: Request) -> Response:
        """Every model on offer that the request may name, one entry a name."""
        return _json(ModelList(data=tuple(self._offered(request).values())))

    async def one(self, request: Request) -> Response:
        """The model of this name. Raises ModelNotFound."""
        name = request.path_params["name"]
        found = self._offered(request).get(name)
        if found is None:
            raise ModelNotFound(
                f"No node in reach has the model {name}.", hint="See /v1/models.", param="model"
            )
        return _json(found)

    def _offered(self, request: Request) -> dict[str, ModelShape]:
        offered: dict[str, ModelShape] = {}
        grant = visit_of(request.scope).grant
        for view in self._doors.models():  # of several quants of one name, the first stands for it
            if grant is None or may_name(grant, view.name):
                offered.setdefault(view.name, ModelShape(id=view.name, created=self._created, mesh=view))
        return offered


def _json(shape: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(shape), media_type="application/json")
