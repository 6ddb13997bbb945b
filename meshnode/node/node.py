"""A whole node, as a program embeds it: what its owner can ask of it, handed on to the room that knows how."""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from meshnode.config import Config
from meshnode.control import join as joining
from meshnode.control.invite import EXPIRES_DEFAULT_S, invite
from meshnode.control.keys import Keyring
from meshnode.control.models import remove as remove_model
from meshnode.errors import MeshError, Unreachable
from meshnode.identity import Identity
from meshnode.models.pull import OnProgress, PullProgress, pull
from meshnode.models.signed import pull_signed
from meshnode.models.store import ModelStore, Removed, StoredModel
from meshnode.net.base import Network
from meshnode.node.addresses import addresses_at
from meshnode.node.asking import embedding_job, job_from, naming
from meshnode.node.attesting import Attestation
from meshnode.node.auditing import Auditor
from meshnode.node.deciding import chooser_of, hedger_of
from meshnode.node.engines import Engines
from meshnode.node.far import Far
from meshnode.node.founding import found
from meshnode.node.pinging import Pinging
from meshnode.node.presence import Presence, World
from meshnode.node.provenance import answer_for, label_of
from meshnode.node.rejoining import check_free, keeps, still_in
from meshnode.node.remembering import recall_of
from meshnode.node.sharing import Sharing
from meshnode.node.spotting import Spotting
from meshnode.node.trusting import TrustActions
from meshnode.node.views import Facts, Joining, models_of, snapshot_of
from meshnode.node.visit import Entry, Visitor
from meshnode.node.weights import Weights
from meshnode.observe.metrics import Metrics
from meshnode.observe.recent import Recent
from meshnode.observe.snapshot import ModelView, Snapshot
from meshnode.observe.trace import tracer
from meshnode.routing.decision import DecisionView
from meshnode.routing.prompts import fitted
from meshnode.seams import Seams
from meshnode.serve import traced
from meshnode.serve.admit import Admission
from meshnode.serve.attended import attended
from meshnode.serve.cloud import CloudRung, cloud_answer
from meshnode.serve.inbound import Inbound
from meshnode.serve.local import Bench
from meshnode.serve.metered import Served, metered
from meshnode.serve.readiness import readiness
from meshnode.serve.running import Running
from meshnode.serve.scopes import Scopes
from meshnode.serve.vectors import floats
from meshnode.serve.walk import Walk
from meshnode.state.store import Store
from meshnode.terms import Answer, Candidate, Emitted, Job, Turn, Vector
from meshnode.trust.certificates import ROLE_ISSUER
from meshnode.trust.membership import Mesh
from meshnode.trust.tickets import Ticket

JOINED_WITHIN_S = 10.0
PresenceOn = Callable[[World, Mesh, str, int, Entry | None], Presence]


class Node:
    """A running node; made by `open_node`."""

    def __init__(
        self,
        config: Config,
        identity: Identity,
        store: Store,
        seams: Seams,
        network: Network,
        presence_on: PresenceOn = Presence,
        attestation: Attestation | None = None,
    ) -> None:
        self.config = config
        self.identity = identity
        self.seams = seams
        self.models_store = ModelStore(config.home / "models")
        self.scopes = Scopes(identity.secret_for(b"scopes"))
        self.bench = Bench(
            (), self.scopes, allow_unsandboxed=config.allow_unsandboxed, owner_slots=config.owner_slots
        )
        self.audit = audit = Auditor(config, identity, seams)
        self.spotting = Spotting(config, seams, store, self.bench, audit)
        self._far = Far(lambda: self.presence, self.spotting.marked)
        self.bench.gate.watch(self._far.tell)
        self.sharing = Sharing(config, seams, self.bench.gate)
        self.engines = Engines(config, self.models_store, seams, self.bench)
        self.engines.on_progress = self._progressed
        self.presence: Presence | None = None
        self.api_url = ""
        self.joining = Joining()
        self.on_progress: OnProgress = lambda _progress: None
        self._store, self._network, self._presence_on = store, network, presence_on
        self._started_at = trio.current_time()
        self._move, self._present = trio.Event(), trio.Event()
        self._one_join = trio.Lock()
        self._entry: Entry | None = None
        self._admission = admission = Admission()
        self.metrics, self.recent, self._tracer = Metrics(self.snapshot), Recent(), tracer()
        self.cloud = CloudRung(config.cloud, config.home, seams, os.environ)
        self._chooser = chooser_of(config, identity.node, self.bench, seams, self._far, self.cloud)
        self.trust, self.keys = TrustActions(self.present), Keyring(store, seams, config.profiles)
        self.ping = Pinging(self.present).ping
        choose = traced.choosing(audit.choosing(self._chooser, self._chooser.plan), self._tracer)
        run_on = traced.running(audit.running(self._run_on), self._tracer)
        self._recall = recall_of(config, seams, self.bench, identity.node, lambda: self._label(identity.node))
        budget, hedger = self._chooser.router.budget, hedger_of(self._chooser, self.metrics)
        self._walk = Walk(admission, choose, run_on, self._answer_for, budget, self._recall, hedger)
        self.readiness = partial(readiness, self._chooser, admission, self.snapshot)
        self._weights = Weights(config, self.models_store, seams, self.present, lambda: admission.taken > 0)
        served = Served(self.metrics, self._tracer, self.recent)
        self._inbound = inbound = Inbound(
            admission,
            self.bench,
            self._chooser.local,
            identity.node,
            watch_run=served,
            price_usd=config.price_usd,
        )
        self._world = World(
            config,
            identity,
            store,
            seams,
            network,
            self.bench,
            inbound.serve,
            self._weights.serve,
            partial(addresses_at, config.mesh_host),
            lambda: audit.end,
            attestation or Attestation(),
        )

    # --- What its owner can ask of it ---

    def ask(
        self, prompt: str | Sequence[Turn | Mapping[str, Any]], **wishes: Any
    ) -> AbstractAsyncContextManager[Running]:
        """Ask a model, wherever in the mesh it runs best.

        `prompt` is a question or a whole conversation; `wishes` are the fields of Wish and Sampling (`model`,
        `privacy`, `max_tokens`, `temperature`, …), `tools`, `tool_choice`, `schema`, `resume`, `tenant` and
        `deadline_s`. Entering waits for the first piece and raises MeshError; leaving cancels. The pieces are
        in `.pieces`, who serves them in `.answer`.
        """
        return self.run(job_from(prompt, wishes, self.new_id(), self.scopes.tag))

    async def embed(
        self, texts: str | Sequence[str], **wishes: Any
    ) -> tuple[tuple[tuple[float, ...], ...], Answer]:
        """A vector of unit length for each text, and who made them; `wishes` as for `ask`. Raises MeshError."""
        job = embedding_job(texts, wishes, self.new_id(), self.scopes.tag)
        async with self.run(job) as running:
            vectors = [floats(one.values) async for one in running.pieces if isinstance(one, Vector)]
        return tuple(vectors), running.answer

    def run(self, job: Job) -> AbstractAsyncContextManager[Running]:
        """Run a job that is ready made."""
        return metered(job, self._walk.ask, self.metrics, self._tracer, self.recent)

    def explain(self, job: Job) -> DecisionView:
        """The decision that was taken for a job, or that `run` would take now, with every reason."""
        return self._chooser.explain(job)

    def snapshot(self) -> Snapshot:
        """What the node looks like now."""
        return snapshot_of(self._facts())

    def models(self) -> tuple[ModelView, ...]:
        """Every model on offer in the mesh."""
        return models_of(self._facts(), self.presence.view() if self.presence else {})

    async def invite(self, *, expires_s: int = EXPIRES_DEFAULT_S) -> str:
        """A one-use ticket for the next device; raises NotAllowed if this node is no issuer."""
        presence = await self.present()
        return await invite(
            self.identity,
            presence.mesh,
            self._store,
            self.seams,
            addresses=presence.addresses,
            expires_s=expires_s,
        )

    async def join(self, target: str, *, leave: bool = False, via: str = "") -> None:
        """Join the mesh of a ticket, or the open mesh at an address; returns once the node is linked to it.

        Nothing is to be done for a mesh that it is in already. One with other members in it is only left if `leave`
        says so. `via` is an address to use instead of those in the ticket. Raises TicketInvalid, TicketExpired,
        TicketUsed, WrongMesh, NotAllowed, Unreachable, …
        """
        parsed = joining.parse_target(target)
        async with self._one_join:
            await self._join(parsed, leave=leave, via=via)

    async def _join(self, parsed: Ticket | joining.OpenTarget, *, leave: bool, via: str) -> None:
        presence = await self.present()
        if not leave:
            if await still_in(parsed, presence, self._store):
                self.joining = Joining("joined")
                return
            check_free(parsed, presence)
        self.joining = Joining("joining", parsed.mesh_name if isinstance(parsed, Ticket) else parsed.address)
        try:
            await self._move_to(await self._admitted(parsed, via))
        except MeshError as error:
            if not keeps(parsed, presence, error):
                self.joining = Joining("failed", str(error))
                raise
        self.joining = Joining("joined")

    async def pull(
        self,
        source: str,
        *,
        name: str = "",
        sha256: str = "",
        manifest: str = "",
        on_progress: OnProgress = lambda _progress: None,
    ) -> StoredModel:
        """Bring a model into this node's store, and serve it from now on; see `meshnode.models.pull`.

        With the path of a manifest, the model must be one of those it says are signed.
        """
        fetch = partial(pull_signed, manifest=Path(manifest)) if manifest else pull
        model = await self._weights.pulled(
            fetch,
            source,
            self.models_store,
            blocking=self.seams.blocking,
            on_progress=on_progress,
            sha256=sha256,
            name=name,
        )
        if self.config.engine == "llama":
            self.engines.add(model.name)
        return model

    async def remove(self, name: str, *, force: bool = False) -> Removed:
        """Give a model up: it is served no longer, and its disk space is freed.

        Raises ModelNotFound, and Busy while it answers somebody, unless that is to be broken off.
        """
        known = {model.name for model in await self.seams.blocking(self.models_store.models)}
        if name.lower() in known:
            await self.engines.remove(name.lower(), force=force)
        return await self.seams.blocking(lambda: remove_model(self.models_store, name))

    @property
    def may_invite(self) -> bool:
        """Whether this node signs tickets for its mesh."""
        return self.presence is not None and self.presence.mesh.role == ROLE_ISSUER

    def new_id(self) -> str:
        """A fresh request id."""
        return "req-" + self.seams.entropy(12).hex()

    # --- Its life ---

    async def live(self, listen: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the node until cancelled. Started once it listens on its mesh; models load behind that."""
        await self.audit.open()
        mesh = await self._store.mesh() or await found(self.config, self.identity, self._store, self.seams)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.engines.live)
            await nursery.start(self.cloud.live)
            await nursery.start(self._inbound.run)
            nursery.start_soon(self.sharing.run)
            await nursery.start(self.spotting.run)
            await nursery.start(self._chooser.run)
            await nursery.start(self._recall.run)
            await nursery.start(self._stay_present, mesh, listen)
            task_status.started()

    def _progressed(self, progress: PullProgress) -> None:
        self.on_progress(progress)

    async def _stay_present(
        self, mesh: Mesh, listen: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Be on one mesh after the other."""
        while True:
            self._move = trio.Event()
            presence = self._presence_on(self._world, mesh, listen, self.seams.now_ms(), self._entered())
            async with trio.open_nursery() as nursery:
                await nursery.start(presence.run)
                self.presence = presence
                listen = presence.bound  # a free port that was found once is kept
                self._present.set()
                task_status.started()
                await self._move.wait()
                nursery.cancel_scope.cancel()
            task_status = trio.TASK_STATUS_IGNORED
            listen = presence.bound  # a port that the system chose stays: others may know it by now
            mesh = await self._store.mesh() or await found(
                self.config, self.identity, self._store, self.seams
            )

    def _entered(self) -> Entry | None:
        """The way on which this node has come into its mesh, if it has only just joined."""
        entry, self._entry = self._entry, None
        return entry

    async def present(self) -> Presence:
        """This node's life on its mesh, waited for while it moves from one to another."""
        while self.presence is None:
            await self._present.wait()
        return self.presence

    # --- Joining ---

    async def _admitted(self, target: Ticket | joining.OpenTarget, via: str) -> Entry:
        """The way into the mesh that lets us in."""
        visitor = Visitor(self.identity, self.config.name, self._network, self.seams)
        if isinstance(target, joining.OpenTarget):
            return await visitor.open_mesh_at(target.address)
        if via:
            target = msgspec.structs.replace(target, addresses=(via,))
        return await visitor.redeem(target)

    async def _move_to(self, entry: Entry) -> None:
        """Leave the present mesh for another, and wait until what it knows has come."""
        await self._store.forget_mesh()
        await self._store.save_mesh(entry.mesh)
        for address in entry.addresses:
            await self._store.put_address(b"", address, self.seams.now_ms())
        self.presence = None
        self._present = trio.Event()
        self._entry = entry
        self._move.set()
        presence = await self.present()
        with trio.move_on_after(JOINED_WITHIN_S):
            await presence.linked()
            return
        raise presence.switch.last_failure() or Unreachable(
            "The mesh let this device in, but no link to it has come up.",
            hint="It goes on trying; see `meshnode status`.",
        )

    # --- What the walk asks of it ---

    @asynccontextmanager
    async def _run_on(self, candidate: Candidate, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
        job = fitted(job, candidate.card.family, self.config.prompts)
        if candidate.cloud is not None:
            async with self.cloud.run(candidate, job) as pieces:
                yield pieces
            return
        named = naming(job, candidate)
        if not candidate.path:
            async with self.bench.run(candidate.card.digest, named, self.identity.node) as pieces:
                yield pieces
            return
        flight = self._chooser.sent(candidate, job)
        held = self._chooser.held(candidate, job)
        named, hear = self.spotting.watch(candidate, named)
        async with attended(self._far.run(candidate, named, held), flight, hear) as pieces:
            yield pieces

    def _answer_for(self, candidate: Candidate) -> Answer:
        if candidate.cloud is not None:
            return cloud_answer(candidate, candidate.cloud, self._label(self.identity.node))
        return answer_for(candidate, self.identity.node, self._label)

    def _label(self, node: bytes) -> str:
        return label_of(node, self._facts())

    def _facts(self) -> Facts:
        return Facts(
            config=self.config,
            node=self.identity.node,
            bench=self.bench,
            presence=self.presence,
            cloud=self.cloud,
            joining=self.joining,
            api_url=self.api_url,
            started_at=self._started_at,
            sharing=self.sharing.view(),
            distrusted=self.spotting.distrusted,
            under_way=self._admission.taken,
        )
