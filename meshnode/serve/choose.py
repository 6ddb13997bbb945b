"""The step that decides: facts about this node and the others become candidates, and routing orders them."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from meshnode.engine.base import Engine
from meshnode.errors import BadRequest, ModelNotFound
from meshnode.routing.decision import Decision, DecisionView
from meshnode.routing.plan import Choice, Plan, Rung
from meshnode.routing.policy import Reason, parse_model
from meshnode.routing.probing import Reply
from meshnode.routing.router import Flight, Router
from meshnode.routing.score import Worth
from meshnode.seams import Rng
from meshnode.serve.local import Bench
from meshnode.serve.needs import with_needs
from meshnode.serve.probing import Held, Prober, Reach
from meshnode.serve.trial import ATTEMPTS
from meshnode.terms import Candidate, Job, ModelCard, Place, Trust

NEWS_S = 3.0  # vitals are signed again every 2 s at most, and take a round of gossip to come
LOOK_EVERY_S = 0.05
DECISIONS_MAX = 1024  # that are remembered until somebody asks why
LOOK_AGAIN_S = 30.0  # for a model that nobody on the mesh had, while a commercial API has it
LOOKED_MAX = 256
PASSING = (Reason.UNREACHABLE, Reason.HOPS, Reason.EXPIRED)
LOOKS_AROUND = (Place.PREFER_LOCAL, Place.MESH)
WAITS_FOR_OWN = (Place.PREFER_LOCAL, Place.LOCAL)
ChooseLocal = Callable[[Job], ModelCard]


class Chooser:
    """Makes the plan for each request.

    `remote` gives what the other nodes offer now, `vitals_seqs` which state of their queues that was;
    `look_up` asks the DHT for providers of a model family, which `remote` then gives too; `cloud` are the models of
    commercial APIs as they are for a job; `reach` gives the link over which a candidate is asked how it is, if at
    all. `router` is what was learnt on the way.
    """

    def __init__(
        self,
        node: bytes,
        bench: Bench,
        rng: Rng,
        remote: Callable[[], list[Candidate]],
        vitals_seqs: Callable[[], dict[bytes, int]],
        look_up: Callable[[str], Awaitable[None]],
        cloud: Callable[[Job], list[Candidate]] = lambda _job: [],
        *,
        reach: Reach | None = None,
        worth: Worth | None = None,
        hedges: bool = False,
    ) -> None:
        self._node = node
        self._bench = bench
        self._remote = remote
        self._vitals_seqs = vitals_seqs
        self._look_up = look_up
        self._cloud = cloud
        self._looked: dict[str, float] = {}
        self.router = Router(rng, worth or Worth(), hedges=hedges)
        self.prober = Prober(reach, self._note) if reach is not None else None
        self._decisions: OrderedDict[str, Decision] = OrderedDict()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Where the questions to candidates live, until cancelled."""
        if self.prober is None:
            task_status.started()
        else:
            await self.prober.run(task_status)

    async def __call__(self, job: Job) -> tuple[Candidate, ...]:
        """The candidates for a job, best first; raises ModelNotFound, NoCandidate or Busy.

        While the model may be loading here and nobody else can serve, waiting for it beats refusing. A commercial
        API is only come to when the mesh was looked through; for it, a model that loads is not waited for.
        """
        plan, wanted = self.plan(job), parse_model(job.wish.model)
        if not plan.on_mesh and job.wish.place in LOOKS_AROUND and not self._looked_lately(plan):
            await self._look_up(wanted.family)
            plan = await self._plan_with_patience(job)
        if not plan.choices and job.wish.place in WAITS_FOR_OWN and self._bench.may_bring(wanted):
            await self._bench.settled(wanted)
            plan = self.plan(job)
        if not plan.choices:
            raise plan.refusal()
        decision = await self._decided(plan, job)
        self._remember(job, decision)
        if not decision.choices:
            raise decision.plan.refusal()
        return _with_last_resort(decision.choices)

    def _looked_lately(self, plan: Plan) -> bool:
        """Whether to leave it at what a commercial API offers: the mesh was looked through for this a moment ago."""
        now = trio.current_time()
        self._looked = {name: then for name, then in self._looked.items() if now - then < LOOK_AGAIN_S}
        lately = bool(plan.choices) and plan.wanted in self._looked
        if not lately and len(self._looked) < LOOKED_MAX:
            self._looked[plan.wanted] = now
        return lately

    async def _decided(self, plan: Plan, job: Job) -> Decision:
        """The order in which to try, after some of them were asked how they are."""
        if self.prober is None:
            return Decision(plan, plan.choices)
        asking = self.router.asking(plan, job, trio.current_time())
        if asking.asked:
            await self.prober.ask(asking, job)
        return asking.decision()

    def _remember(self, job: Job, decision: Decision) -> None:
        self._decisions.pop(job.id, None)
        while len(self._decisions) >= DECISIONS_MAX:
            self._decisions.popitem(last=False)
        self._decisions[job.id] = decision

    def explain(self, job: Job) -> DecisionView:
        """The decision that was made for a job, or else the one that would be made now without asking anybody."""
        decision, made = self._decisions.get(job.id), job.id in self._decisions
        if decision is None:
            plan = self.plan(job, by_lot=False)
            decision = Decision(plan, plan.choices)
        first = decision.choices[0].candidate if decision.choices else None
        hedge = self.router.hedging.account(job, first)
        return msgspec.structs.replace(decision.view(made=made), hedge=hedge)

    def _note(self, candidate: Candidate, reply: Reply | None) -> None:
        """A candidate said how it is, or could not be asked."""
        now = trio.current_time()
        if reply is None:
            self.router.failed(candidate, now)
        else:
            self.router.heard(candidate, reply, self._vitals_seqs(), now)

    async def _plan_with_patience(self, job: Job) -> Plan:
        """A plan, waiting a little for the way to a node whose ad has come but not its neighbours' vitals yet."""
        plan = self.plan(job)
        with trio.move_on_after(NEWS_S):
            while not plan.on_mesh and any(one.reason in PASSING for one in plan.rejected):
                await trio.sleep(LOOK_EVERY_S)
                plan = self.plan(job)
        return plan

    def plan(self, job: Job, *, by_lot: bool = True) -> Plan:
        """The decision and its reasons, as things are now; without `by_lot` it is the same each time."""
        candidates, now = [*self._local(job), *self._remote(), *self._cloud(job)], trio.current_time()
        return self.router.plan(with_needs(job), candidates, self._vitals_seqs(), now, by_lot=by_lot)

    def held(self, candidate: Candidate, job: Job) -> Held | None:
        """The stream on which a candidate keeps a place for a job, if it does; whoever takes it closes it."""
        return self.prober.take(job, candidate) if self.prober is not None else None

    def sent(self, candidate: Candidate, job: Job) -> Flight:
        """A job goes to a peer now; what becomes of it is to be told to the flight."""
        decision = self._decisions.get(job.id)
        choice = decision.choice_of(candidate) if decision is not None else None
        now, seqs = trio.current_time(), self._vitals_seqs()
        return self.router.sent(choice or self.router.choice(candidate, job, seqs, now), job, seqs, now)

    def local(self, job: Job) -> ModelCard:
        """The model of this node that a peer's job means; raises ModelNotFound, BadRequest."""
        wanted = parse_model(job.wish.model)
        if wanted.auto:
            raise BadRequest("A job for a peer names its model.", param="model")
        for candidate in self._local(job):
            if wanted.fits(candidate.card):
                return candidate.card
        raise ModelNotFound(f"This node does not run {job.wish.model!r} (any more).", param="model")

    def _local(self, job: Job) -> list[Candidate]:
        return [self._own(engine, card, job) for engine in self._bench.engines for card in engine.cards]

    def _own(self, engine: Engine, card: ModelCard, job: Job) -> Candidate:
        load, retry_after_s = self._bench.gate.load(engine), self._bench.gate.retry_after_s(engine, card, job)
        return Candidate(
            node=self._node,
            card=card,
            trust=Trust.SELF,
            rtt_ms=0.0,
            in_flight=load.in_flight,
            queued_prefill=load.queued_prefill,
            queued_decode=load.queued_decode,
            accepting=retry_after_s is None,
            retry_after_s=retry_after_s,
        )


def _with_last_resort(choices: Sequence[Choice]) -> tuple[Candidate, ...]:
    """The candidates in their order, but a commercial API no later than what may be tried at all."""
    mesh = [choice.candidate for choice in choices if choice.rung is not Rung.CLOUD]
    cloud = [choice.candidate for choice in choices if choice.rung is Rung.CLOUD]
    if not cloud or choices[0].rung is Rung.CLOUD or len(mesh) < ATTEMPTS:
        return tuple(choice.candidate for choice in choices)
    return (*mesh[: ATTEMPTS - 1], *cloud, *mesh[ATTEMPTS - 1 :])
