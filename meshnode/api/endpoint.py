"""What the endpoints that run jobs have in common: from the request to the flow of items, and who may end it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar, Generic, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from meshnode.api.ceiling import allowed
from meshnode.api.doors import Doors
from meshnode.api.exchange import Exchange
from meshnode.api.flow import Items, flowing
from meshnode.api.guard import read_json_body
from meshnode.api.options import MeshBody, under_trace
from meshnode.api.visit import visit_of
from meshnode.errors import MeshError
from meshnode.terms import Answer, Job

B = TypeVar("B", bound=MeshBody)


class Endpoint(ABC, Generic[B]):
    """An ASGI application that answers one POST at a time; `B` is what the body is read as.

    `fields` says which are called otherwise here than in a chat, whose words the steps below use.
    """

    fields: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; when the client leaves, the runs are cancelled at once."""
        visit, exchange = visit_of(scope), Exchange(scope, receive, send, self.fields)
        try:
            request = Request(scope, receive)
            asked = self.read(await read_json_body(request), request.headers.items())
            asked = msgspec.structs.replace(asked, mesh=allowed(visit.grant, asked.model, asked.mesh))
            tag = visit.tag(self._doors.tenant_tag, asked.tenant)
            jobs = visit.bounded(self.jobs(asked, visit.job_id, tag), asked.length_param)
            jobs = tuple(under_trace(job, request.headers) for job in jobs)
        except (MeshError, HTTPException) as error:
            await exchange.refuse(error)
            return
        async with exchange.attended(), flowing(self._doors, jobs) as items:
            await self.respond(exchange, asked, jobs, items)

    @abstractmethod
    def read(self, body: bytes, headers: Iterable[tuple[str, str]]) -> B:
        """Decode and check a request. Raises BadRequest whose `param` names the field at fault."""

    @abstractmethod
    def jobs(self, asked: B, job_id: str, tenant_tag: bytes) -> tuple[Job, ...]:
        """The jobs that the walk takes, at least one. Raises BadRequest for what no Job can say."""

    @abstractmethod
    async def respond(self, exchange: Exchange, asked: B, jobs: tuple[Job, ...], items: Items) -> None:
        """Write what comes of the jobs, to its end or its one error."""

    async def _answer(self, exchange: Exchange, asked: B, job: Job, items: Items) -> Answer | None:
        """What comes first of a job: who serves it, put into the headers, and why if that was asked for.

        None where nobody does; then the error has been written.
        """
        answer = (await anext(items)).item
        if not isinstance(answer, Answer):
            await exchange.refuse(answer)
            return None
        exchange.served_by(answer)
        if asked.explain:
            exchange.decided(self._doors.explain(job))
        return answer
