"""The step before choosing: a kept answer, a run under way to join, or a run of one's own that others may join.

It knows jobs, pieces and the rooms of `meshnode.cache`; it knows neither candidates nor links. A cache that cannot be
read is a miss, never an error.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio

from meshnode.cache.exact import kept_from, mode, question_of, recalled, row_of, skip
from meshnode.cache.flight import Flight, Flights
from meshnode.cache.key import Keys
from meshnode.cache.semantic import (
    SEARCHED_MAX,
    Match,
    Tallies,
    are_alike,
    best_match,
    labels_with,
    must_explore,
    say_the_same,
)
from meshnode.cache.spelling import Vocabulary
from meshnode.errors import HomeUnusable
from meshnode.observe import log
from meshnode.seams import Seams
from meshnode.serve.running import Running
from meshnode.serve.trial import too_late
from meshnode.state.answers import AnswerStore
from meshnode.terms import Answer, CacheMode, Emitted, End, Job
from meshnode.terms.job import DEADLINE_MS_MAX

FLIGHT_GRACE = 0.25  # of the first one's deadline: for so long after it others may join a run
LOOKS_MAX = 3  # for a kept answer, when a flight that might have brought it has landed meanwhile
EMBED_S = 1.0  # an embedder that takes longer is not asked for its view
_logger = log.get("recall")

Fresh = Callable[[Job], AbstractAsyncContextManager[Running]]
Vectors = Sequence[Sequence[float]]
Embed = Callable[[tuple[str, ...]], Awaitable[Vectors | None]]


async def no_embedder(texts: tuple[str, ...]) -> None:
    """For a node that has no model made for embeddings: words alone must do."""


@dataclass(frozen=True)
class Recall:
    """What this node remembers. `ceiling` is the most that any request may use of it.

    `embed` gives a vector for each text, or None where it cannot; `home_label` names this node in an answer's path.
    """

    ceiling: CacheMode
    store: AnswerStore
    vocabulary: Vocabulary
    seams: Seams
    home_label: Callable[[], str] = lambda: ""
    embed: Embed = no_embedder
    keys: Keys = field(default_factory=Keys)
    flights: Flights = field(default_factory=Flights)
    tallies: Tallies = field(default_factory=Tallies)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Let runs be shared, until cancelled; before and after that every request runs by itself."""
        try:
            await self.flights.run(task_status)
        finally:
            with trio.CancelScope(shield=True):
                await self.store.aclose()

    @asynccontextmanager
    async def answer(self, job: Job, fresh: Fresh) -> AsyncIterator[Running]:
        """An answer to a job: remembered, shared, or run by `fresh`. Leaving ends what nobody else waits for.

        Raises what `fresh` raises while nothing was emitted; later failures come out of the iterator.
        """
        if skip(job, self.ceiling) is not None or not self.flights.can_start:
            async with fresh(job) as running:
                yield running
            return
        deadline = trio.current_time() + job.deadline_ms / 1000
        found = await self._found(job, deadline)
        if isinstance(found, Running):
            yield found
            return
        async with self._aboard(job, deadline, found, fresh) as running:
            yield running

    async def _found(self, job: Job, deadline: float) -> "Running | Flight | Match | None":
        """What there is already. A kept answer to a like question that must be checked comes as a Match."""
        for _ in range(LOOKS_MAX):
            flight = self.flights.find(self.keys.flight(job), deadline)
            if flight is not None:
                return self._landed(flight) or flight
            landings = self.flights.landings
            kept = await self._recalled(job)
            if kept is not None:
                return kept
            if self.flights.landings == landings:
                break
        return await self._alike(job) if mode(job, self.ceiling) is CacheMode.SEMANTIC else None

    def _landed(self, flight: Flight) -> Running | None:
        """The answer of a flight that is over and is being kept just now."""
        kept = kept_from(flight.answer, flight.items) if flight.answer and flight.landed else None
        return None if kept is None else self._running(kept.answer, kept.items, "exact", 1.0)

    async def _recalled(self, job: Job) -> Running | None:
        try:
            kept = await recalled(self.store, self.keys.ask(job), job, self.seams.now_ms())
        except HomeUnusable as error:
            _logger.warning("kept answers cannot be read", why=str(error))
            return None
        return None if kept is None else self._running(kept.answer, kept.items, "exact", 1.0)

    def _running(self, answer: Answer, items: tuple[Emitted, ...], cache: str, similarity: float) -> Running:
        """A kept answer as if it were running here."""
        provenance = msgspec.structs.replace(
            answer, path=(self.home_label(),), rung="local", attempts=0, cache=cache, similarity=similarity
        )
        return Running(provenance, _replayed(items))

    # --- Questions that mean the same ---

    async def _alike(self, job: Job) -> Running | Match | None:
        question = question_of(job)
        if not question:
            return None
        try:
            rows = await self.store.near(self.keys.namespace(job), self.seams.now_ms(), SEARCHED_MAX)
        except HomeUnusable as error:
            _logger.warning("kept answers cannot be read", why=str(error))
            return None
        match = await self.seams.blocking(lambda: best_match(job, question, rows, self.vocabulary))
        if match is None or not await self._embedder_agrees(question, match):
            return None
        if must_explore(match, self.tallies.of(job.tenant_tag), self.seams.rng):
            return match
        return self._running(match.kept.answer, match.kept.items, "semantic", match.prior)

    async def _embedder_agrees(self, asked: str, match: Match) -> bool:
        """Whether the node's embedder does not find two questions unlike; without one, or in time, it has no say.

        It is not asked about slips of spelling, which it cannot read.
        """
        if not match.reworded:
            return True
        vectors: Vectors | None = None
        with trio.move_on_after(EMBED_S):
            vectors = await self.embed((asked, match.row.question))
        return vectors is None or are_alike(*vectors)

    async def _learn(self, job: Job, match: Match, text: str) -> None:
        """Whether the kept answer would have been right, for the next time."""
        right = say_the_same(match.kept.text, text)
        self.tallies.note(job.tenant_tag, right)
        await self.store.put_labels(match.row.ask, match.row.weights, labels_with(match, right))

    # --- Runs that are shared ---

    @asynccontextmanager
    async def _aboard(
        self, job: Job, deadline: float, found: "Flight | Match | None", fresh: Fresh
    ) -> AsyncIterator[Running]:
        """A run under way, or a new one that others may join."""
        key = self.keys.flight(job)
        joined = found if isinstance(found, Flight) else self.flights.find(key, deadline)
        flight = joined or self._start(key, job, deadline, found if isinstance(found, Match) else None, fresh)
        with self.flights.aboard(flight):
            answer = None
            with trio.move_on_at(deadline):
                answer = await flight.begun()
            if answer is None:
                raise too_late(job)
            if joined:
                answer = msgspec.structs.replace(answer, cache="flight")
            yield Running(answer, _Aboard(flight, job, deadline, pays=joined is None))

    def _start(self, key: bytes, job: Job, deadline: float, match: Match | None, fresh: Fresh) -> Flight:
        grace_ms = int(job.deadline_ms * FLIGHT_GRACE)
        longer = msgspec.structs.replace(job, deadline_ms=min(DEADLINE_MS_MAX, job.deadline_ms + grace_ms))

        @asynccontextmanager
        async def start() -> AsyncIterator[tuple[Answer, AsyncIterator[Emitted]]]:
            async with fresh(longer) as running:
                yield running.answer, running.pieces

        async def on_landed(flight: Flight) -> None:
            await self._remember(job, flight, match)

        return self.flights.start(key, deadline + grace_ms / 1000, start, on_landed)

    async def _remember(self, job: Job, flight: Flight, match: Match | None) -> None:
        """Keep the answer of a flight, if it may be kept."""
        kept = None if flight.answer is None else kept_from(flight.answer, flight.items)
        if kept is None:
            return
        try:
            await self.store.put(row_of(self.keys, job, kept), self.seams.now_ms())
            if match is not None:
                await self._learn(job, match, kept.text)
        except HomeUnusable as error:
            _logger.warning("an answer cannot be kept", why=str(error))


async def _replayed(items: tuple[Emitted, ...]) -> AsyncIterator[Emitted]:
    for item in items:
        await trio.lowlevel.checkpoint()
        yield item


class _Aboard(AsyncIterator[Emitted]):
    """What a flight brings, from its start, to one of those aboard, within that one's own deadline; one `pays`."""

    def __init__(self, flight: Flight, job: Job, deadline: float, *, pays: bool) -> None:
        self._pays = pays
        self._flight = flight
        self._job = job
        self._deadline = deadline
        self._next = 0
        self._over = False

    async def __anext__(self) -> Emitted:
        """The next item; nothing comes after an End. Raises MeshError."""
        if self._over:
            raise StopAsyncIteration
        item = None
        try:
            with trio.move_on_at(self._deadline) as waiting:
                item = await self._flight.item(self._next)
        except BaseException:
            self._over = True
            raise
        if item is None:
            self._over = True
            if waiting.cancelled_caught:
                raise too_late(self._job)
            raise StopAsyncIteration
        self._next += 1
        self._over = isinstance(item, End)
        if isinstance(item, End) and not self._pays:
            return msgspec.structs.replace(item, usage=msgspec.structs.replace(item.usage, cost_nusd=0))
        return item
