"""The last rung: a job sent to a commercial API, once what it can cost at most is held for it.

Only this node's own jobs come here, never a peer's. It knows no HTTP. Each request lives in a task of its own, which
settles what was held however the request ends; whoever asked may leave at any moment.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio

from meshnode.engine.cloud.engine import CloudEngine, Ready, Restored
from meshnode.engine.cloud.offer import CloudOffer as Model
from meshnode.engine.upstream.client import Fate
from meshnode.engine.upstream.runs import UpstreamRun
from meshnode.errors import BudgetExceeded, MeshError, ModelNotFound, Unreachable
from meshnode.observe.snapshot import CloudView, ModelView
from meshnode.routing.policy import parse_model
from meshnode.seams import Seams
from meshnode.state.budgets import Budgets, open_budgets, usd
from meshnode.terms import NUSD, Answer, Candidate, CloudApi, CloudOffer, Emitted, End, Job, Trust

NODE_TAG = b"meshnode cloud\0"
NODE_BYTES = 20
CLASSES = ("public", "private")

log = structlog.get_logger("meshnode.serve")


class CloudRung:
    """The commercial APIs that the owner has named, in their order. Raises ConfigInvalid."""

    def __init__(self, apis: Iterable[CloudApi], home: Path, seams: Seams, env: Mapping[str, str]) -> None:
        self._engines = tuple(CloudEngine(api, env, seams.blocking) for api in apis)
        self._nodes = {engine: _node_of(engine.api) for engine in self._engines}
        self._home, self._seams = home, seams
        self._budgets: Budgets | None = None
        self._nursery: trio.Nursery | None = None

    async def live(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Where the requests live, until cancelled. Raises HomeUnusable."""
        if not self._engines:
            task_status.started()
            return
        budgets = await open_budgets(self._home, self._seams.blocking, self._seams.now_ms())
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(budgets.keep)
                self._budgets, self._nursery = budgets, nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._budgets = self._nursery = None
            with trio.CancelScope(shield=True):
                for engine in self._engines:
                    await engine.aclose()
                await _closed(budgets)

    # --- What there is ---

    def candidates(self, job: Job) -> list[Candidate]:
        """Every model of every API as it is for this job, those first that the owner has put first."""
        if self._budgets is None:
            return []
        wanted = parse_model(job.wish.model)
        return [
            Candidate(
                node=self._nodes[engine],
                path=(self._nodes[engine],),
                card=engine.paced(model.card_for(wanted)),
                trust=Trust.NONE,
                labels=engine.api.residency,
                in_flight=engine.load.in_flight,
                accepting=engine.accepting,
                cloud=self._offer(self._budgets, engine, model, job),
            )
            for engine in self._engines
            for model in engine.offers
        ]

    def _offer(self, budgets: Budgets, engine: CloudEngine, model: Model, job: Job) -> CloudOffer:
        return CloudOffer(
            api=engine.api.name,
            model=model.model.id,
            price=model.model.price,
            privacy=engine.api.privacy,
            most_usd=engine.most_nusd(job, model) / NUSD,
            request_usd=engine.api.request_usd,
            left_usd=self._left_nusd(budgets, engine.api) / NUSD,
        )

    def _left_nusd(self, budgets: Budgets, api: CloudApi) -> int:
        return _nusd(api.monthly_usd) - budgets.spending(api.name, self._seams.now_ms()).total

    def models(self) -> tuple[ModelView, ...]:
        """What can be asked for there, by the APIs' own names."""
        return tuple(
            ModelView(
                name=model.model.id,
                quant=model.card.quant,
                tier=model.card.tier,
                context=model.card.context,
                digest=model.card.digest.hex(),
                cloud=engine.api.name,
            )
            for engine in self._engines
            for model in engine.offers
        )

    def views(self) -> tuple[CloudView, ...]:
        """Each API and its budget, for status."""
        if self._budgets is None:
            return ()
        return tuple(self._view(self._budgets, engine) for engine in self._engines)

    def _view(self, budgets: Budgets, engine: CloudEngine) -> CloudView:
        spent = budgets.spending(engine.api.name, self._seams.now_ms())
        return CloudView(
            name=engine.api.name,
            state="resting" if engine.resting else "ready",
            detail=engine.detail,
            models=tuple(offer.model.id for offer in engine.offers),
            privacy=engine.api.privacy,
            redacts=engine.api.redact,
            month=f"{spent.month // 100}-{spent.month % 100:02}",
            monthly_usd=engine.api.monthly_usd,
            request_usd=engine.api.request_usd,
            spent_usd=spent.known / NUSD,
            assumed_usd=spent.assumed / NUSD,
            held_usd=spent.open / NUSD,
            left_usd=max(0, self._left_nusd(budgets, engine.api)) / NUSD,
            requests=spent.requests,
            in_flight=engine.load.in_flight,
        )

    # --- One request ---

    @asynccontextmanager
    async def run(self, candidate: Candidate, job: Job) -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job at a candidate of this rung; leaving the context gives it up.

        Raises BudgetExceeded, Busy, BadRequest; the iterator raises these and whatever the API's refusal means.
        """
        engine, model = self._found(candidate)
        if self._nursery is None or self._budgets is None:
            raise Unreachable("The node is stopping.")
        ready = await engine.prepare(job, model)
        self._check_limits(engine.api, ready)
        run, scope = UpstreamRun(ready.job), trio.CancelScope()
        self._nursery.start_soon(self._carry, self._budgets, engine, ready, run, scope)
        try:
            yield Restored(run, ready.redaction) if ready.redaction else run
        finally:
            scope.cancel()

    def _found(self, candidate: Candidate) -> tuple[CloudEngine, Model]:
        for engine in self._engines:
            for model in engine.offers:
                if candidate.cloud is not None and model.card.digest == candidate.card.digest:
                    return engine, model
        raise ModelNotFound("No commercial API of this node offers the model (any more).", param="model")

    def _check_limits(self, api: CloudApi, ready: Ready) -> None:
        """The limits of one request once more: what is really sent may be longer than what was asked."""
        asked = ready.job.wish.max_price_usd
        limit_usd = api.request_usd if asked is None else min(asked, api.request_usd)
        if ready.most_nusd > _nusd(limit_usd):
            raise BudgetExceeded(
                f"The request could cost {usd(ready.most_nusd)} USD at {api.name}, and {limit_usd:g} are allowed.",
                hint="Ask for a shorter answer (max_tokens), or allow more: max_price, or request_usd there.",
            )
        if ready.job.wish.privacy not in CLASSES:
            raise ModelNotFound("A request of this class never goes to a commercial API.", param="privacy")

    async def _carry(
        self, budgets: Budgets, engine: CloudEngine, ready: Ready, run: UpstreamRun, scope: trio.CancelScope
    ) -> None:
        """One request from its place to its end, which is an item of the run."""
        last: End | MeshError
        try:
            with scope:
                async with engine.place(run):
                    last = await self._paid(budgets, engine, ready, run)
                run.finish(last)
        except MeshError as error:
            run.finish(error)
        except Exception:  # whatever goes wrong with one request must not end what others use too
            log.exception("cloud request broke", request=ready.job.id, api=engine.api.name)
            run.finish(MeshError("Something went wrong inside the node."))

    async def _paid(self, budgets: Budgets, engine: CloudEngine, ready: Ready, run: UpstreamRun) -> End:
        """Send a request, with what it can cost held before and settled after."""
        api, fate, nusd = engine.api, Fate(), None
        held = await budgets.hold(api.name, ready.most_nusd, _nusd(api.monthly_usd), self._seams.now_ms())
        try:
            end = await engine.send(ready, run, fate)
            if end.usage.prompt_tokens:
                nusd = ready.offer.model.price.cost_nusd(end.usage.prompt_tokens, end.usage.completion_tokens)
            return end
        finally:
            nusd = 0 if nusd is None and fate.free else nusd
            budgets.settle(held, nusd)
            _tell(ready, api.name, nusd)


async def _closed(budgets: Budgets) -> None:
    try:
        await budgets.aclose()
    except MeshError as error:  # what is not written down counts as spent
        log.warning("budgets not written", why=str(error))


def _tell(ready: Ready, api: str, nusd: int | None) -> None:
    log.info(
        "cloud request",
        request=ready.job.id,
        api=api,
        model=ready.offer.model.id,
        privacy=ready.job.wish.privacy.value,
        most_usd=usd(ready.most_nusd),
        cost_usd="unknown" if nusd is None else usd(nusd),
    )


def cloud_answer(candidate: Candidate, cloud: CloudOffer, origin: str) -> Answer:
    """Who serves: the API by its name, under its own name for the model."""
    return Answer(
        model=cloud.model,
        served_by=cloud.api,
        path=(origin, cloud.api),
        rung="cloud",
        trust=candidate.trust.name.lower(),
        tier=candidate.card.tier,
        cloud=cloud,
    )


def _node_of(api: CloudApi) -> bytes:
    """What stands where nodes have their id."""
    return hashlib.sha256(NODE_TAG + f"{api.name}\0{api.url}".encode()).digest()[:NODE_BYTES]


def _nusd(amount_usd: float) -> int:
    return round(amount_usd * NUSD)
