"""Spot checks of a node: whom they have shown to run other weights, kept over restarts, and what follows from it.

It is this node's own view and travels nowhere: what somebody says of a peer could be a lie about it.
"""

from contextlib import suppress

import msgspec
import structlog
import trio

from meshnode.config import Config
from meshnode.errors import MeshError
from meshnode.node.auditing import Auditor
from meshnode.routing.ledger import key_of
from meshnode.routing.spotchecks import Distrusted, Finding, SpotChecks
from meshnode.seams import Seams
from meshnode.serve.local import Bench
from meshnode.serve.spotcheck import Hear, SpotChecker
from meshnode.state.store import Store
from meshnode.terms import Candidate, Job
from meshnode.trust.audit import Decision, Kind
from meshwire.ids import NodeId, to_text

SETTING = "distrusted"
log = structlog.get_logger("meshnode.node")


class Spotting:
    """Who is distrusted, and the checks that show it."""

    def __init__(self, config: Config, seams: Seams, store: Store, bench: Bench, audit: Auditor) -> None:
        self._seams = seams
        self._store = store
        self._audit = audit
        self._distrusted = Distrusted()
        self._checker = SpotChecker(bench, SpotChecks(seams.rng, config.spot_checks), seams, self._on_foreign)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Remember, then check answers until cancelled."""
        self._distrusted = Distrusted(_read(await self._store.setting(SETTING)))
        task_status.started()
        await self._checker.run()

    def watch(self, candidate: Candidate, job: Job) -> tuple[Job, Hear]:
        """As SpotChecker.watch."""
        return self._checker.watch(candidate, job)

    def marked(self, candidate: Candidate) -> Candidate:
        """The candidate, with what this node has found about it."""
        if not self._distrusted.holds(key_of(candidate), self._seams.now_ms()):
            return candidate
        return msgspec.structs.replace(candidate, distrusted=True)

    def distrusted(self, node: bytes) -> tuple[bytes, ...]:
        """The digests of the weights that a node is not believed to run."""
        found = self._distrusted.findings(self._seams.now_ms())
        return tuple(finding.digest for finding in found if finding.node == node)

    async def _on_foreign(self, candidate: Candidate, finding: Finding) -> None:
        """From now on it is not asked for these weights; that is kept, and written down."""
        self._distrusted.add(finding)
        where = to_text(NodeId(finding.node))
        log.warning(
            "a node answers with other weights", peer=where, model=candidate.card.name, why=finding.told
        )
        with suppress(MeshError):  # a disk that is full keeps nothing; the finding holds all the same
            kept = self._distrusted.findings(self._seams.now_ms())
            await self._store.put_setting(SETTING, msgspec.msgpack.encode(kept))
            await self._audit.note(
                Decision(
                    kind=Kind.DISTRUSTED,
                    where=where,
                    weights=finding.digest,
                    model=candidate.card.name,
                    reason=finding.told,
                )
            )


def _read(packed: bytes | None) -> tuple[Finding, ...]:
    """What was kept; nothing of it where it cannot be read, for it is only ever a precaution."""
    try:
        return msgspec.msgpack.decode(packed, type=tuple[Finding, ...]) if packed else ()
    except msgspec.MsgspecError as error:
        log.warning("whom this node distrusted is lost", why=str(error))
        return ()
