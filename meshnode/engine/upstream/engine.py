"""The engine in front of another server: it looks what that offers, and streams jobs through it.

The server is somebody else's process. It may be away, come back, change its models or answer nonsense; each
of that is a state or one error here. What it cannot do is go on with an answer that began elsewhere.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import trio

from meshnode.config import Upstream
from meshnode.engine.base import EngineState, Load
from meshnode.engine.upstream.answer import AnswerReader
from meshnode.engine.upstream.apart import Apart, Fields
from meshnode.engine.upstream.client import SILENCE_S, Client
from meshnode.engine.upstream.exchange import Exchange
from meshnode.engine.upstream.key import read_key
from meshnode.engine.upstream.offer import Offer, make_offers, quant_named
from meshnode.engine.upstream.pace import Pace
from meshnode.engine.upstream.request import Body, chat_body, embedding_body
from meshnode.engine.upstream.runs import UpstreamRun, load_of
from meshnode.engine.upstream.scout import Scout
from meshnode.engine.upstream.vectors import read_vectors
from meshnode.errors import Busy, ConfigInvalid, EngineFailed, MeshError, ModelNotFound
from meshnode.observe import log
from meshnode.routing.policy import parse_model
from meshnode.terms import Emitted, End, FinishReason, Job, ModelCard, Posture

QUEUE_RUNS = 64  # that may wait beside those in slots
LOOK_EVERY_S = 30.0
LOOK_WITHIN_S = 60.0
PAUSE_FIRST_S = 1.0  # after a look that failed; it doubles
MISSES = 2  # looks in a row that fail before a server that was ready counts as gone
VECTORS_BYTES_MAX = 64 * 1024 * 1024

_log = log.get("engine")


class UpstreamEngine:
    """An Engine over HTTP. Raises ConfigInvalid for a key that is not to be had, or a quant that is none.

    `silence_s` is how long the server may say nothing in the middle of a request, and `look_every_s` how often
    it is asked what it offers; both are there for tests.
    """

    def __init__(
        self,
        upstream: Upstream,
        env: Mapping[str, str],
        *,
        silence_s: float = SILENCE_S,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        if upstream.quant and quant_named(upstream.quant) is None:
            raise ConfigInvalid(
                f"There is no quant {upstream.quant!r}.", hint="Such as Q4_K_M.", param="upstreams"
            )
        self.upstream = upstream
        self._label = upstream.name or urlsplit(upstream.url).netloc
        self._client = Client(upstream.url, read_key(upstream, env), runs=upstream.slots, silence_s=silence_s)
        self._silence_s, self._look_every_s = silence_s, look_every_s
        self._state, self._detail = EngineState.LOADING, "asking the upstream server for its models"
        self._offers: tuple[Offer, ...] = ()
        self._paces: dict[bytes, Pace] = {}
        self._runs: list[UpstreamRun] = []
        self._apart = Apart()
        self._slots = trio.Semaphore(upstream.slots)
        self._watchers: list[Callable[[], None]] = []
        self._doubt = trio.Event()

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The models that the server offers."""
        return tuple(offer.card for offer in self._offers)

    @property
    def state(self) -> EngineState:
        """LOADING until it was asked once; FAILED while it cannot be, which may pass."""
        return self._state

    @property
    def detail(self) -> str:
        """Why it does not serve, and which of several servers that is."""
        failed = self._state is EngineState.FAILED
        return f"{self._label}: {self._detail}" if failed else self._detail

    @property
    def posture(self) -> Posture:
        """What the owner says of it; nobody here can look into it."""
        free = not self.upstream.contained
        why = "its [[upstreams]] table does not say contained = true" if free else ""
        return Posture(kind="upstream", network=free, writes=free, reads=free, why=why)

    @property
    def load(self) -> Load:
        """The requests that go through this node; what else the server does is not known."""
        return load_of(self._runs, self.upstream.slots)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call back on every change of state, detail or cards."""
        self._watchers.append(on_change)

    @asynccontextmanager
    async def run(self, job: Job, scope: bytes = b"") -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job, see Engine.run."""
        offer, run = self._admit(job), UpstreamRun(job)
        apart = self._apart.fields(offer.owner, job.id, scope)
        failure: Exception | None = None
        self._join(run)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, run, job, offer, apart)
                try:
                    yield run
                except Exception as error:  # noqa: BLE001 - raised below: a nursery would wrap it in a group
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            self._runs.remove(run)
        if failure is not None:
            raise failure

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look what the server offers, now, every half minute, and whenever a run has failed."""
        task_status.started()
        scout = Scout(self._client, self.upstream.models)
        pause_s, misses = PAUSE_FIRST_S, 0
        try:
            while True:
                misses = 0 if await self._look(scout, misses) else misses + 1
                wait_s = min(pause_s, self._look_every_s) if misses else self._look_every_s
                pause_s = min(pause_s * 2, self._look_every_s) if misses else PAUSE_FIRST_S
                await self._wait(wait_s)
        finally:
            with trio.CancelScope(shield=True):
                await self._client.aclose()

    async def _wait(self, seconds: float) -> None:
        self._doubt = trio.Event()
        with trio.move_on_after(seconds):
            await self._doubt.wait()
            await trio.sleep(min(seconds, PAUSE_FIRST_S))  # many runs that fail together are one doubt

    async def _look(self, scout: Scout, misses: int) -> bool:
        """Take in what is on offer; False, and after some misses FAILED, when nothing is."""
        try:
            with trio.fail_after(LOOK_WITHIN_S):
                facts = await scout.look()
        except (MeshError, trio.TooSlowError) as error:
            if self._state is not EngineState.READY or misses + 1 >= MISSES:
                self._offers = ()
                self._become(EngineState.FAILED, str(error) or "The upstream server is too slow.")
            return False
        mine = self.upstream
        offers = make_offers(facts, url=mine.url, slots=mine.slots, context=mine.context, quant=mine.quant)
        self._offer(tuple(self._with_pace(offer) for offer in offers))
        return True

    def _with_pace(self, offer: Offer) -> Offer:
        pace = self._paces.setdefault(offer.card.digest, Pace())
        card = msgspec.structs.replace(offer.card, prompt_tps=pace.prompt_tps, generate_tps=pace.generate_tps)
        return offer._replace(card=card)

    def _offer(self, offers: tuple[Offer, ...]) -> None:
        if offers != self._offers or self._state is not EngineState.READY:
            self._offers = offers
            self._become(EngineState.READY)

    def _become(self, state: EngineState, detail: str = "") -> None:
        if (state, detail) == (self._state, self._detail) and state is not EngineState.READY:
            return
        if state is not self._state:
            _log.info("upstream", server=self._label, state=state, why=detail)
        self._state, self._detail = state, detail
        for on_change in self._watchers:
            on_change()

    def _admit(self, job: Job) -> Offer:
        """The model that the job means, or why it cannot run."""
        if self._state is EngineState.LOADING:
            raise Busy("The upstream server is being asked for its models.", retry_after_s=PAUSE_FIRST_S)
        if self._state is not EngineState.READY:
            raise EngineFailed(self._detail, retry_after_s=PAUSE_FIRST_S)
        if job.resume:
            raise EngineFailed("An upstream server cannot go on with an answer that began elsewhere.")
        if len(self._runs) >= self.upstream.slots + QUEUE_RUNS:
            raise Busy("The queue for the upstream server is full.", retry_after_s=PAUSE_FIRST_S)
        wanted = parse_model(job.wish.model)
        fitting = [offer for offer in self._offers if wanted.fits(offer.card)]
        if not fitting:
            raise ModelNotFound(f"The upstream server does not offer {job.wish.model!r}.", param="model")
        able = [offer for offer in fitting if job.inputs or not offer.card.only_embeds]
        if not able:
            raise ModelNotFound(
                f"The model {fitting[0].card.name} embeds texts, and nothing else.", param="model"
            )
        return able[0]

    def _join(self, run: UpstreamRun) -> None:
        self._runs.append(run)
        for one in self._runs if len(self._runs) > 1 else ():
            one.watch.alone = False

    async def _carry(self, run: UpstreamRun, job: Job, offer: Offer, apart: Fields) -> None:
        """Bring one run to its end; that it failed is an item of it."""
        try:
            async with self._slots:
                run.watch.sent = trio.current_time()
                if job.inputs:
                    end = await self._embed(run, job, offer)
                else:
                    end = await self._complete(run, offer, AnswerReader(job), chat_body(job, offer.id, apart))
        except EngineFailed as error:
            self._doubt.set()
            run.finish(error)
        except MeshError as error:
            run.finish(error)
        else:
            run.finish(end)

    async def _complete(self, run: UpstreamRun, offer: Offer, reader: AnswerReader, body: Body) -> End:
        exchange = Exchange(run, reader)
        try:
            await self._client.pour("chat/completions", body, exchange.take)
        except EngineFailed:
            if not reader.complete:
                raise
        end = exchange.end()
        pace = self._paces.setdefault(offer.card.digest, Pace())
        if pace.note(run.watch, end.usage, reader.timings):
            self._offer(tuple(self._with_pace(offer) for offer in self._offers))
        return end

    async def _embed(self, run: UpstreamRun, job: Job, offer: Offer) -> End:
        fetched: Any = await self._client.fetch(
            "embeddings",
            embedding_body(job, offer.id),
            most_bytes=VECTORS_BYTES_MAX,
            within_s=self._silence_s,
        )
        vectors, usage = read_vectors(fetched, len(job.inputs))
        for vector in vectors:
            run.put(vector)
        return End(FinishReason.STOP, usage)
