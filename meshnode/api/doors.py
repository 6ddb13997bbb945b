"""What the API needs from the node behind it. It is all the API ever sees of the mesh."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from meshnode.observe.recent import Recent
from meshnode.observe.snapshot import ModelView, Snapshot
from meshnode.routing.decision import DecisionView
from meshnode.serve.readiness import Readiness
from meshnode.serve.running import Running
from meshnode.terms import Job, Wish


class Doors(Protocol):
    """The node, seen from the HTTP side."""

    recent: Recent  # the requests that the node has seen lately

    def ask(self, job: Job) -> AbstractAsyncContextManager[Running]:
        """Run a job. Entering waits for a place and raises a MeshError; leaving cancels what still runs."""
        ...

    def models(self) -> Sequence[ModelView]:
        """The models that a request can name now."""
        ...

    def snapshot(self) -> Snapshot:
        """What the node looks like at this moment; instant, even while a model loads."""
        ...

    def readiness(self, wish: Wish) -> Readiness:
        """Whether a request with this wish could be served now. Raises BadRequest."""
        ...

    def metrics(self) -> bytes:
        """What Prometheus reads of the node, in its text format."""
        ...

    def explain(self, job: Job) -> DecisionView:
        """The decision that was made for a job, or would be made now, with every reason."""
        ...

    async def invite(self, expires_s: int) -> str:
        """A ticket for one more device. Raises NotAllowed where this node may not invite."""
        ...

    def new_id(self) -> str:
        """A fresh id for a request: letters and digits."""
        ...

    def tenant_tag(self, tenant: str) -> bytes:
        """What stands for a tenant in a Job, without naming it; empty for none."""
        ...

    def wall(self) -> float:
        """Unix seconds."""
        ...
