"""The first thing that a request meets: it gets its ids, a place and a time, or is told at once to come back.

It knows nothing of bodies or models.
"""

from __future__ import annotations

import re

import trio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshnode.api.dashboard.admin import STATE
from meshnode.api.doors import Doors
from meshnode.api.errors import mesh_response
from meshnode.api.guard import Unread, draining
from meshnode.api.keys import OPEN
from meshnode.api.traffic import Traffic
from meshnode.api.visit import VISIT, Visit
from meshnode.errors import DeadlineExceeded
from meshnode.observe import log

REQUEST_ID = "x-request-id"
JOB_ID = "x-mesh-job"
WELL_FORMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+/=-]{0,127}")
ERRORS_FROM = 400  # among HTTP's statuses
OVERTIME_S = 5.0  # for an answer whose own deadline is the whole time to say so itself

_logger = log.get("api")


class Reception:
    """Middleware around all others; `request_s` is the most that a request may take."""

    def __init__(self, app: ASGIApp, doors: Doors, traffic: Traffic, request_s: float) -> None:
        self._app = app
        self._doors = doors
        self._traffic = traffic
        self._request_s = request_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = self._visit(Headers(scope=scope))
        scope.setdefault("state", {})[VISIT] = visit
        reply = _Reply(send, visit)
        begun = trio.current_time()
        try:
            await self._receive(scope, receive, reply)
        finally:
            _note(scope, visit, reply.status, trio.current_time() - begun)

    async def _receive(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        if refusal := self._traffic.refusal(bounded=scope["path"] not in OPEN):
            response = Unread(mesh_response(refusal, self._closing(scope)))
            await response(scope, receive, draining(reply.send, receive))
            return
        with self._traffic.place():
            with trio.move_on_after(self._request_s + OVERTIME_S) as bound:
                await self._app(scope, receive, reply.send)
            if bound.cancelled_caught and not reply.status:
                late = DeadlineExceeded(
                    f"The request took longer than {self._request_s:g} s, which is the most."
                )
                await mesh_response(late)(scope, receive, draining(reply.send, receive))

    def _closing(self, scope: Scope) -> dict[str, str]:
        """What tells an HTTP/1 client to go elsewhere next time; HTTP/2 has no such header."""
        ends = self._traffic.draining.is_set() and scope["http_version"].startswith("1")
        return {"connection": "close"} if ends else {}

    def _visit(self, headers: Headers) -> Visit:
        job_id = self._doors.new_id()
        given = headers.get(REQUEST_ID, "")
        request_id = given if WELL_FORMED.fullmatch(given) else job_id
        return Visit(request_id, job_id, int(self._request_s * 1000))


class _Reply:
    """The way back: every response says which request it is of."""

    def __init__(self, send: Send, visit: Visit) -> None:
        self._send = send
        self._visit = visit
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            ids = [(REQUEST_ID.encode(), self._visit.request_id.encode())]
            if self._visit.request_id != self._visit.job_id:
                ids.append((JOB_ID.encode(), self._visit.job_id.encode()))
            message = {**message, "headers": [*message.get("headers", ()), *ids]}
        await self._send(message)


def _note(scope: Scope, visit: Visit, status: int, seconds: float) -> None:
    """A line in the log: of what was refused or failed, what a key asked for, and what its client named.

    A page that looks each second is no news.
    """
    told = (visit.grant is not None and scope["path"] != STATE) or visit.request_id != visit.job_id
    write = _logger.info if told or not 0 < status < ERRORS_FROM else _logger.debug
    write(
        "request",
        request=visit.request_id,
        job=visit.job_id,
        method=scope["method"],
        path=scope["path"],
        status=status,
        key=visit.grant.key if visit.grant else "",
        ms=round(seconds * 1000),
    )
