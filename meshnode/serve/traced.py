"""The steps of a request with spans around them: the choice, and each attempt to run it. It decides nothing.

Where nobody looks at spans, the steps are left as they are.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from meshnode.errors import MeshError
from meshnode.observe.metrics import CANCELLED, OK
from meshnode.observe.trace import Tracer
from meshnode.serve.course import Choose, RunOn
from meshnode.serve.running import Distant, Silent
from meshnode.terms import Candidate, Emitted, End, Job
from meshwire.ids import NodeId, to_text


def choosing(choose: Choose, tracer: Tracer) -> Choose:
    """The step that decides, as a span of the request: how many may serve, and who is first."""

    async def chosen(job: Job) -> tuple[Candidate, ...]:
        span, code = tracer.begin("meshnode.choose", job.trace, request=job.id), CANCELLED
        try:
            candidates = await choose(job)
            code = OK
            if span.records:
                span.note(candidates=len(candidates), **facts_of(candidates[0]))
        except MeshError as error:
            code = error.code
            raise
        else:
            return candidates
        finally:
            span.end(code)

    return chosen


def running(run_on: RunOn, tracer: Tracer) -> RunOn:
    """The step that runs a job somewhere, as a span that is the parent of whatever the other end makes."""

    @asynccontextmanager
    async def run(candidate: Candidate, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
        kind = "client" if candidate.path else "internal"
        span = tracer.begin("meshnode.attempt", job.trace, kind=kind, request=job.id)
        if not span.records:
            async with run_on(candidate, job) as pieces:
                yield pieces
            return
        span.note(resumed=len(job.resume), **facts_of(candidate))
        attempt = _Attempt()
        try:
            async with run_on(candidate, msgspec.structs.replace(job, trace=span.traceparent)) as pieces:
                yield attempt.seen(pieces)
        except MeshError as error:
            attempt.code = error.code
            raise
        finally:
            span.end(attempt.code)

    return run


def facts_of(candidate: Candidate) -> dict[str, str | int]:
    """What a span says of a candidate."""
    if candidate.cloud is not None:
        return {"peer": candidate.cloud.api, "rung": "cloud", "model": candidate.card.name, "links": 0}
    return {
        "peer": to_text(NodeId(candidate.node)),
        "rung": "peer" if candidate.path else "local",
        "model": candidate.card.name,
        "links": len(candidate.path),
    }


class _Attempt:
    """How an attempt went, as far as was seen of it; one that is left before its end was cancelled."""

    def __init__(self) -> None:
        self.code = CANCELLED

    def seen(self, pieces: AsyncIterator[Emitted]) -> AsyncIterator[Emitted]:
        """The same pieces, looked at; a Distant stays one."""
        return _SeenDistant(pieces, self) if isinstance(pieces, Distant) else _Seen(pieces, self)


class _Seen(AsyncIterator[Emitted]):
    def __init__(self, pieces: AsyncIterator[Emitted], attempt: _Attempt) -> None:
        self._pieces, self._attempt = pieces, attempt

    async def __anext__(self) -> Emitted:
        try:
            item = await anext(self._pieces)
        except Silent:
            raise
        except MeshError as error:
            self._attempt.code = error.code
            raise
        if isinstance(item, End):
            self._attempt.code = OK
        return item


class _SeenDistant(_Seen):
    def __init__(self, pieces: Distant, attempt: _Attempt) -> None:
        super().__init__(pieces, attempt)
        self._distant = pieces

    async def heard(self) -> None:
        await self._distant.heard()

    async def reattach(self) -> None:
        await self._distant.reattach()
        self._attempt.code = CANCELLED  # it goes on
