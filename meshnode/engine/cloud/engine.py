"""One commercial API: it takes a job of its own node, streams it through, and rests after failures.

What a request may cost is told before it is sent, and what it did cost afterwards; whether there is money for it is
not known here. It is no `Engine`: nothing of it is on offer to other nodes.
"""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
import trio

from meshnode.engine.base import Load
from meshnode.engine.cloud.body import changed, changed_call, cloud_body
from meshnode.engine.cloud.offer import CloudOffer, most_answer_tokens, most_prompt_tokens, offers_of
from meshnode.engine.cloud.redact import Recognisers, Redaction, Restorer
from meshnode.engine.upstream.answer import AnswerReader
from meshnode.engine.upstream.client import SILENCE_S, Client, Fate
from meshnode.engine.upstream.exchange import Exchange
from meshnode.engine.upstream.key import read_key
from meshnode.engine.upstream.pace import Pace
from meshnode.engine.upstream.request import Body
from meshnode.engine.upstream.runs import UpstreamRun, load_of
from meshnode.engine.upstream.vectors import read_vectors
from meshnode.errors import Busy, EngineFailed
from meshnode.seams import Blocking
from meshnode.terms import CloudApi, Emitted, End, FinishReason, Job, ModelCard, Piece

KEEP_S = 3.0  # idle connections; those servers that close theirs soonest wait five seconds
QUEUE_PER_SLOT = 4
REST_FIRST_S, REST_MAX_S = 1.0, 60.0  # after a failure; it doubles
VECTORS_BYTES_MAX = 64 * 1024 * 1024
PARAM = "cloud"


class Ready(msgspec.Struct, frozen=True):
    """A request as it would be sent, and the most that it can cost, in nano-dollars."""

    job: Job
    offer: CloudOffer
    body: Body
    most_nusd: int
    redaction: Redaction | None = None


class CloudEngine:
    """An API in use. Raises ConfigInvalid for a key that is not to be had, a bad quant, or missing libraries."""

    def __init__(
        self, api: CloudApi, env: Mapping[str, str], blocking: Blocking, *, silence_s: float = SILENCE_S
    ) -> None:
        self.api = api
        self.offers = offers_of(api)
        self._client = Client(
            api.url, read_key(api, env, PARAM), runs=api.slots, silence_s=silence_s, keep_s=KEEP_S
        )
        self._silence_s, self._blocking = silence_s, blocking
        self._recognisers = Recognisers(api.redact_region) if api.redact else None
        self._paces = {offer.card.digest: Pace() for offer in self.offers}
        self._runs: list[UpstreamRun] = []
        self._slots = trio.Semaphore(api.slots)
        self._rests_until, self._rest_s = -math.inf, REST_FIRST_S
        self.detail = ""

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @property
    def accepting(self) -> bool:
        """Whether it takes work now: it is not resting, and its queue is not full."""
        return not self.resting and len(self._runs) < self.api.slots * (1 + QUEUE_PER_SLOT)

    @property
    def resting(self) -> bool:
        """Whether it is left alone for a moment after a failure."""
        return trio.current_time() < self._rests_until

    @property
    def load(self) -> Load:
        """What is under way there for this node."""
        return load_of(self._runs, self.api.slots)

    def paced(self, card: ModelCard) -> ModelCard:
        """The card with the speeds that were measured here."""
        pace = self._paces[card.digest]
        return msgspec.structs.replace(card, prompt_tps=pace.prompt_tps, generate_tps=pace.generate_tps)

    def most_nusd(self, job: Job, offer: CloudOffer) -> int:
        """The most that a job can cost there."""
        model = offer.model
        return model.price.cost_nusd(most_prompt_tokens(job, model), most_answer_tokens(job, model))

    async def prepare(self, job: Job, offer: CloudOffer) -> Ready:
        """What would be sent for a job; personal details are looked for in a thread. Raises BadRequest."""
        redaction = None
        if self._recognisers is not None:
            job, redaction = await self._blocking(lambda: self._redacted(job))
        return Ready(
            job, offer, cloud_body(job, self.api, offer.model), self.most_nusd(job, offer), redaction
        )

    def _redacted(self, job: Job) -> tuple[Job, Redaction]:
        assert self._recognisers is not None
        redaction = Redaction(self._recognisers, msgspec.json.encode(job).decode())
        return changed(job, redaction.redact), redaction

    @asynccontextmanager
    async def place(self, run: UpstreamRun) -> AsyncIterator[None]:
        """One of its slots, waited for. Raises Busy when too many wait, or the API rests."""
        if not self.accepting:
            wait_s = max(REST_FIRST_S, self._rests_until - trio.current_time())
            raise Busy(f"{self.api.name} takes no more work now.", retry_after_s=wait_s)
        self._runs.append(run)
        for one in self._runs if len(self._runs) > 1 else ():
            one.watch.alone = False
        try:
            async with self._slots:
                yield
        finally:
            self._runs.remove(run)

    async def send(self, ready: Ready, run: UpstreamRun, fate: Fate) -> End:
        """Send it and put what comes into the run; its end, which is the caller's to put. Raises MeshError."""
        try:
            run.watch.sent = trio.current_time()
            end = await (self._embed if ready.job.inputs else self._complete)(ready, run, fate)
        except Busy as error:
            self._rest(error.retry_after_s or REST_FIRST_S, str(error))
            raise
        except EngineFailed as error:
            self._rest(self._rest_s, str(error))
            self._rest_s = min(2 * self._rest_s, REST_MAX_S)
            raise
        self._rests_until, self._rest_s, self.detail = -math.inf, REST_FIRST_S, ""
        return end

    def _rest(self, seconds: float, why: str) -> None:
        self._rests_until, self.detail = trio.current_time() + seconds, why

    async def _complete(self, ready: Ready, run: UpstreamRun, fate: Fate) -> End:
        reader = AnswerReader(ready.job)
        exchange = Exchange(run, reader)
        try:
            await self._client.pour("chat/completions", ready.body, exchange.take, fate)
        except EngineFailed:
            if not reader.complete:
                raise
        end = exchange.end()
        self._paces[ready.offer.card.digest].note(run.watch, end.usage, reader.timings)
        return end

    async def _embed(self, ready: Ready, run: UpstreamRun, fate: Fate) -> End:
        fetched = await self._client.fetch(
            "embeddings", ready.body, most_bytes=VECTORS_BYTES_MAX, within_s=self._silence_s, fate=fate
        )
        vectors, usage = read_vectors(fetched, len(ready.job.inputs))
        for vector in vectors:
            run.put(vector)
        return End(FinishReason.STOP, usage)


class Restored(AsyncIterator[Emitted]):
    """What a run emits, with the placeholders of its request turned back."""

    def __init__(self, run: AsyncIterator[Emitted], redaction: Redaction) -> None:
        self._run, self._redaction = run, redaction
        self._text = Restorer(redaction)
        self._next: Emitted | None = None

    async def __anext__(self) -> Emitted:
        """The next item; text that waited for the end of a placeholder comes before the End. Raises MeshError."""
        kept, self._next = self._next, None
        item = await anext(self._run) if kept is None else kept
        if isinstance(item, Piece):
            calls = tuple(changed_call(call, self._redaction.restore) for call in item.calls)
            return msgspec.structs.replace(item, text=self._text.feed(item.text), calls=calls)
        if isinstance(item, End) and (held := self._text.finish()):
            self._next = item
            return Piece(0, (), held)
        return item
