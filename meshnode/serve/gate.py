"""What stands before this node's engines: each job waits here for its turn, and others' give way to the owner.

Whose turn it is, and who is refused, is decided in `routing.admission`; here they wait, are woken and are counted.
It knows engines and neither links nor sockets.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import trio

from meshnode.engine.base import Engine, Load
from meshnode.errors import Busy, MeshError, Yielded
from meshnode.routing.admission import Claim, Queue, claim_of
from meshnode.terms import Emitted, End, FinishReason, Job, ModelCard, Openness, Piece, Progress

OWNER_SLOTS = 1
PAUSED_RETRY_S = 30.0  # the same whatever the reason is, which is nobody else's business
PAUSED = "This node takes no work for others now."
YIELDED = "The node that served this needs its machine for its owner."


class Place:
    """One job's place: in line until `entered`, then running."""

    def __init__(self, claim: Claim, on_end: Callable[[], None]) -> None:
        self.claim = claim
        self._on_end = on_end
        self.entered = trio.Event()
        self.ended = False
        self._failure: MeshError | None = None
        self._waiting: trio.CancelScope | None = None

    def end(self, error: MeshError) -> None:
        """Let it be given up: whoever waits for a turn, or for the next piece, gets this error at once."""
        self._failure = error
        self.entered.set()
        if self._waiting is not None:
            self._waiting.cancel()
        self._on_end()

    def check(self) -> None:
        """Raise the error, if it was given up."""
        if self._failure is not None:
            raise self._failure

    def through(self, pieces: AsyncIterator[Emitted]) -> AsyncIterator[Emitted]:
        """The same pieces, counted; those of others end when the place is given up."""
        return _Yielding(self, pieces) if self.claim.others else _Counted(self, pieces)

    def note(self, emitted: Emitted) -> None:
        """This came out."""
        match emitted:
            case Progress(done, total):
                self.claim.has_read(done, total)
            case Piece(ids=ids):
                self.claim.has_written(len(ids) or 1)
            case End(reason):
                self.ended = reason is not FinishReason.LENGTH

    async def next_of(self, pieces: AsyncIterator[Emitted]) -> Emitted | None:
        """The next piece; None if the place was given up while it was waited for."""
        with trio.CancelScope() as self._waiting:
            return await anext(pieces)
        return None


class _Counted(AsyncIterator[Emitted]):
    def __init__(self, place: Place, pieces: AsyncIterator[Emitted]) -> None:
        self._place, self._pieces = place, pieces

    async def __anext__(self) -> Emitted:
        emitted = await anext(self._pieces)
        self._place.note(emitted)
        return emitted


class _Yielding(_Counted):
    async def __anext__(self) -> Emitted:
        self._place.check()
        emitted = await self._place.next_of(self._pieces)
        if emitted is None:
            self._place.check()
            raise StopAsyncIteration
        self._place.note(emitted)
        return emitted


class Gate:
    """The lines before all engines, and how open they are."""

    def __init__(self, owner_slots: int = OWNER_SLOTS) -> None:
        self._owner_slots = owner_slots
        self._queues: dict[Engine, Queue] = {}
        self._places: dict[Claim, Place] = {}
        self._set = Openness.ACCEPTING
        self._watchers: list[Callable[[], None]] = []

    # --- How open it is ---

    @property
    def openness(self) -> Openness:
        """What to tell others: as it was set, and less where the lines are long."""
        crowded = any(queue.crowded for queue in self._queues.values())
        return max(self._set, Openness.DEPRIORITISED if crowded else Openness.ACCEPTING)

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call back when it was opened or closed."""
        self._watchers.append(on_change)

    def set_openness(self, openness: Openness) -> None:
        """Open or close. Others' jobs that wait or run when it closes for them go elsewhere, at once."""
        if openness is self._set:
            return
        self._set = openness
        if not openness.takes_others:
            for claim, place in tuple(self._places.items()):
                if claim.others:
                    place.end(yielded())
        for on_change in self._watchers:
            on_change()

    def check_open(self, *, others: bool) -> None:
        """Raise Busy for work that is not taken now."""
        if others and not self._set.takes_others:
            raise Busy(PAUSED, hint="Ask another node.", retry_after_s=PAUSED_RETRY_S)
        if self._set is Openness.PAUSED:
            hint = "`meshnode resume` opens it again; other nodes that have the model serve meanwhile."
            raise Busy("This node is paused.", hint=hint, retry_after_s=PAUSED_RETRY_S)

    # --- What there is to do ---

    def load(self, engine: Engine) -> Load:
        """How busy an engine is, those included that wait for their turn."""
        load, queue = engine.load, self._queues.get(engine)
        if queue is None or not len(queue):
            return load
        waiting = queue.waiting
        return msgspec.structs.replace(
            load,
            in_flight=load.in_flight + len(waiting),
            queued_prefill=load.queued_prefill + round(sum(claim.work.prefill for claim in waiting)),
            queued_decode=load.queued_decode + round(sum(claim.work.decode for claim in waiting)),
        )

    def waiting(self, engine: Engine) -> int:
        """How many requests wait for their turn at an engine."""
        queue = self._queues.get(engine)
        return 0 if queue is None else len(queue.waiting)

    def retry_after_s(self, engine: Engine, card: ModelCard, job: Job) -> float | None:
        """In how many seconds a job of this node's own would be taken; None if it would be now."""
        if self._set is Openness.PAUSED:
            return PAUSED_RETRY_S
        queue = self._queue(engine)
        claim = claim_of(job, card, queue.lengths, origin=b"", others=False)
        return None if queue.has_room(claim) else queue.retry_in_s(claim)

    def has_room_for_others(self, engine: Engine, kept: int) -> bool:
        """Whether one more job of others would be taken into the line, with so many places that are kept."""
        return self._set.takes_others and self._queue(engine).takes_one_more(kept)

    # --- The places ---

    @asynccontextmanager
    async def place(
        self,
        engine: Engine,
        card: ModelCard,
        job: Job,
        origin: bytes,
        *,
        others: bool,
        kept: int = 0,
        on_end: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[Place]:
        """A slot of the engine for a job, waited for in its turn; raises Busy instead of a wait that is too long.

        So many places are `kept` for other nodes than the one that asks. `on_end` hears that the place is given up,
        in case whoever has it is busy with something else than waiting.
        """
        self.check_open(others=others)
        queue = self._queue(engine)
        claim = claim_of(job, card, queue.lengths, origin=origin, others=others)
        for dropped in queue.enter(claim, kept):
            self._places[dropped].end(self._dropped(queue, dropped))
        place = self._places[claim] = Place(claim, on_end)
        try:
            self._begin(queue)
            await place.entered.wait()
            place.check()
            yield place
        finally:
            del self._places[claim]
            queue.leave(claim, ended=place.ended)
            self._begin(queue)

    def forget(self, engine: Engine) -> None:
        """The engine has gone; whoever waits for it goes on to it and hears that."""
        self._queues.pop(engine, None)

    def _queue(self, engine: Engine) -> Queue:
        if engine not in self._queues:
            self._queues[engine] = Queue(engine.load.slots, owner_slots=self._owner_slots)
        return self._queues[engine]

    def _begin(self, queue: Queue) -> None:
        for claim in queue.begin():
            self._places[claim].entered.set()
        if (moving := queue.to_move_on()) is not None:
            self._places[moving].end(yielded())

    @staticmethod
    def _dropped(queue: Queue, claim: Claim) -> Busy:
        wait_s = max(1.0, queue.retry_in_s(claim))
        hint = f"Try again in {wait_s:.0f} s."
        return Busy("Too many requests of the same node wait here.", hint=hint, retry_after_s=wait_s)


def yielded() -> Yielded:
    """Why others' work ends: the owner's reasons are nobody else's business."""
    return Yielded(YIELDED, hint="Ask another node.", retry_after_s=PAUSED_RETRY_S)
