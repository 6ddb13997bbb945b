"""The audit log of a node, around its requests: nothing leaves before its line is written, or comes back before that
line is on the disk.

It turns decisions that are made elsewhere into lines. Whoever sends work out by another way than a link, as to an
upstream, calls `note` before it does.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from meshnode.config import Config
from meshnode.errors import HomeUnusable, MeshError
from meshnode.identity import Identity
from meshnode.observe.audit import AuditLog, open_audit
from meshnode.observe.head import HeadFile
from meshnode.observe.segments import FOLDER, Segments
from meshnode.routing.plan import Plan
from meshnode.seams import Seams
from meshnode.serve.course import Choose, RunOn
from meshnode.terms import Candidate, Emitted, Job, Trust
from meshnode.terms.privacy import TRUST_NEEDED
from meshnode.trust.audit import Decision, Kind, Point
from meshwire.ids import NodeId, to_text

MIB = 1 << 20
REASONS_MAX = 8  # of a refusal, one for each kind


class Auditor:
    """Writes the log of one node, if its owner wants one."""

    def __init__(self, config: Config, identity: Identity, seams: Seams) -> None:
        self._config = config
        self._identity = identity
        self._seams = seams
        self._log: AuditLog | None = None

    @property
    def end(self) -> Point:
        """The last line; before the first, and without a log, it is line 0."""
        return self._log.end if self._log is not None else Point()

    async def open(self) -> None:
        """Open the log, mending what a crash left; raises HomeUnusable."""
        if not self._config.audit:
            return
        home = self._config.home
        segments = Segments(home / FOLDER, self._config.audit_mb * MIB)
        self._log = await open_audit(segments, HeadFile(home), self._identity.signer, self._seams)

    async def note(self, decision: Decision) -> None:
        """Write a decision down; it may be carried out once this returns. Raises HomeUnusable, Busy."""
        if (audit := self._opened()) is not None:
            await audit.note(decision)

    def _opened(self) -> AuditLog | None:
        """The log, if its owner wants one."""
        if self._log is None and self._config.audit:
            raise HomeUnusable("The audit log is not open yet, and no request leaves without its line.")
        return self._log

    def choosing(self, choose: Choose, plan: Callable[[Job], Plan]) -> Choose:
        """The step that decides, with a line for each refusal; `plan` says once more who was ruled out, and why."""

        async def chosen(job: Job) -> tuple[Candidate, ...]:
            try:
                return await choose(job)
            except MeshError as error:
                with suppress(MeshError):  # it is refused in any case
                    await self.note(refused(job, error, plan(job)))
                raise

        return chosen

    def running(self, run_on: RunOn) -> RunOn:
        """The step that runs a job somewhere, with a line before one that leaves this node.

        The disk has the line while the request is under way, and before anything of the answer is given out.
        """

        @asynccontextmanager
        async def run(candidate: Candidate, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
            audit = self._opened() if candidate.path else None
            begun = await audit.begin(sent(job, candidate)) if audit is not None else None
            async with run_on(candidate, job) as pieces:
                if begun is not None:
                    await begun.lasts()
                yield pieces

        return run


def sent(job: Job, candidate: Candidate) -> Decision:
    """The line for a job that goes to another node."""
    privacy = job.wish.privacy
    return Decision(
        kind=Kind.SENT,
        request=job.id,
        privacy=privacy,
        rung=_rung(candidate),
        where=candidate.cloud.api if candidate.cloud is not None else to_text(NodeId(candidate.node)),
        weights=candidate.card.digest,
        trust=candidate.trust.name.lower(),
        reason=f"{privacy} needs {TRUST_NEEDED[privacy].name.lower()}",
        model=candidate.card.name,
        path=candidate.path if candidate.cloud is None else (),
    )


def _rung(candidate: Candidate) -> str:
    if candidate.cloud is not None:
        return "cloud"
    return "trusted" if candidate.trust >= Trust.TRUSTED else "members"


def refused(job: Job, error: MeshError, plan: Plan) -> Decision:
    """The line for a job that nobody may, or can, serve: how many were ruled out, for what; nothing of the caller."""
    reasons = [str(one.reason) for one in plan.rejected]
    counted = [f"{reasons.count(reason)} × {reason}" for reason in dict.fromkeys(reasons)]
    return Decision(
        kind=Kind.REFUSED,
        request=job.id,
        privacy=job.wish.privacy,
        reason=": ".join(filter(None, (error.code, "; ".join(counted[:REASONS_MAX])))),
    )
