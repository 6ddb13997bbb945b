"""Whether a request could be served now: decided as for a real one, asking nobody and waiting for nothing."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from meshnode.engine.base import EngineState
from meshnode.errors import Busy, MeshError
from meshnode.observe.snapshot import EngineView, Snapshot
from meshnode.routing.plan import Plan, Rung
from meshnode.serve.admit import Admission
from meshnode.terms import Job, Wish

REASONS_MAX = 32
_BY = {Rung.LOCAL: "local", Rung.CLOUD: "cloud"}


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a request could be served now, and else why not.

    `by` says where it would be tried first: local, peer or cloud. `code` is that of the error it would get instead,
    `reasons` is one for each node, engine or bound in the way, at most REASONS_MAX.
    """

    ready: bool
    by: str = ""
    code: str = ""
    reasons: tuple[str, ...] = ()
    retry_after_s: float | None = None


class MakesPlans(Protocol):
    """What this needs of the step that decides."""

    def plan(self, job: Job, *, by_lot: bool = True) -> Plan:
        """The decision as things are now."""
        ...


def readiness(
    chooser: MakesPlans, admission: Admission, snapshot: Callable[[], Snapshot], wish: Wish
) -> Readiness:
    """Whether a request with this wish could be served now; raises BadRequest for a wish that means nothing."""
    try:
        admission.check()
    except Busy as error:
        return _not_ready(error, (error.message,))
    plan = chooser.plan(Job(id="readiness", wish=wish, turns=()), by_lot=False)
    if plan.choices:
        return Readiness(ready=True, by=_BY.get(plan.choices[0].rung, "peer"))
    refusal = plan.refusal()
    coming = [_coming(engine) for engine in snapshot().engines if engine.state != EngineState.READY]
    return _not_ready(refusal, (refusal.message, *filter(None, coming)))


def _not_ready(error: MeshError, reasons: tuple[str, ...]) -> Readiness:
    return Readiness(
        ready=False, code=error.code, reasons=reasons[:REASONS_MAX], retry_after_s=error.retry_after_s
    )


def _coming(engine: EngineView) -> str:
    """Why an engine of this node serves nothing; empty for one that comes back as soon as it is asked."""
    if engine.state == EngineState.STANDBY:
        return ""
    detail = f": {engine.detail}" if engine.detail else ""
    return f"{engine.model or engine.kind} is {engine.state} here{detail}"
