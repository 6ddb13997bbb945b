"""The step that decides: facts about this node and the others become candidates, and routing orders them."""

from collections.abc import Awaitable, Callable

import trio

from meshnode.engine.base import Engine
from meshnode.errors import BadRequest, ModelNotFound
from meshnode.routing.plan import Plan, make_plan
from meshnode.routing.policy import Reason, parse_model
from meshnode.routing.score import SentLedger
from meshnode.seams import Rng
from meshnode.serve.local import Bench
from meshnode.serve.needs import with_needs
from meshnode.terms import Candidate, Job, ModelCard, Place, Trust

NEWS_S = 3.0  # vitals are signed again every 2 s at most, and take a round of gossip to come
LOOK_EVERY_S = 0.05
PASSING = (Reason.UNREACHABLE, Reason.HOPS, Reason.EXPIRED)
ChooseLocal = Callable[[Job], ModelCard]


class Chooser:
    """Makes the plan for each request.

    `remote` gives what the other nodes offer now, `vitals_seqs` which state of their queues that was;
    `look_up` asks the DHT for providers of a model family, which `remote` then gives too.
    """

    def __init__(
        self,
        node: bytes,
        bench: Bench,
        rng: Rng,
        remote: Callable[[], list[Candidate]],
        vitals_seqs: Callable[[], dict[bytes, int]],
        look_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._node = node
        self._bench = bench
        self._rng = rng
        self._remote = remote
        self._vitals_seqs = vitals_seqs
        self._look_up = look_up
        self._sent = SentLedger()

    async def __call__(self, job: Job) -> tuple[Candidate, ...]:
        """The candidates for a job, best first; raises ModelNotFound, NoCandidate or Busy.

        While the model may be loading here and nobody else can serve, waiting for it beats refusing.
        """
        plan, wanted = self.plan(job), parse_model(job.wish.model)
        if not plan.choices and job.wish.place is not Place.LOCAL:
            await self._look_up(wanted.family)
            plan = await self._plan_with_patience(job)
        if not plan.choices and job.wish.place is not Place.MESH and self._bench.may_bring(wanted):
            await self._bench.settled(wanted)
            plan = self.plan(job)
        if not plan.choices:
            raise plan.refusal()
        return tuple(choice.candidate for choice in plan.choices)

    async def _plan_with_patience(self, job: Job) -> Plan:
        """A plan, waiting a little for the way to a node whose ad has come but not its neighbours' vitals yet."""
        plan = self.plan(job)
        with trio.move_on_after(NEWS_S):
            while not plan.choices and any(one.reason in PASSING for one in plan.rejected):
                await trio.sleep(LOOK_EVERY_S)
                plan = self.plan(job)
        return plan

    def plan(self, job: Job) -> Plan:
        """The decision and its reasons, as things are now."""
        own_sent = self._sent.since(self._vitals_seqs(), trio.current_time())
        return make_plan(
            with_needs(job), [*self._local(job), *self._remote()], own_sent=own_sent, rng=self._rng
        )

    def note_sent(self, candidate: Candidate, job: Job) -> None:
        """Remember what went to a peer, which its gossiped queue cannot show yet."""
        self._sent.note(
            candidate.node,
            candidate.card.digest,
            job.wish.prompt_tokens,
            vitals_seq=self._vitals_seqs().get(candidate.node, 0),
            now=trio.current_time(),
        )

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
