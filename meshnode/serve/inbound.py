"""The other end of the remote step: a job that came over a link is admitted and run here, never passed on.

The run is no part of the link: where that is lost, it goes on for a while, and its asker may come back for the rest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import msgspec
import structlog
import trio

from meshnode.engine.base import Load
from meshnode.errors import BadRequest, EngineFailed, MeshError, ModelNotFound, NotAllowed, Unreachable
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.observe.metrics import CANCELLED, OK
from meshnode.routing.ceilings import refusal
from meshnode.serve.admit import Admission
from meshnode.serve.choose import ChooseLocal
from meshnode.serve.gate import yielded
from meshnode.serve.local import Bench
from meshnode.serve.pacing import Pace, ended, manner_of
from meshnode.serve.packing import unpack_job
from meshnode.serve.places import Places
from meshnode.serve.probed import answer_probe
from meshnode.serve.remote import failure, request_of, send_failure
from meshnode.serve.replay import Delivery
from meshnode.tasks import Tasks
from meshnode.terms import End, Job, ModelCard, Privacy, Progress, Usage
from meshwire import inner, messages
from meshwire.codec import encode_inner
from meshwire.errors import RemoteWireError
from meshwire.limits import REPLAYS_PER_KEY, REPLAYS_TOTAL

ASK_WITHIN_S = 10.0
ACCEPTED = encode_inner(inner.Answer(""))  # what is run has been told before
YIELD_S = 0.25  # that a run has to end between two pieces; one that is stuck in its writing is ended after it
WAITING = Progress(0, 0)
LIFE_EVERY_S = 3.0
INTERNAL = "Something went wrong inside the node that served this."
log = structlog.get_logger("meshnode.serve")
Asked = tuple[bytes, bytes]  # by the node with this key, under this request id
OnOver = Callable[[str, Usage], None]
"""Hears how a run ended: OK, CANCELLED or its error's code, and what the engine counted."""
WatchRun = Callable[[Job, bytes], OnOver]
"""Hears that a run begins, for a node; what it gives hears how that ended."""


class Inbound(Tasks):
    """Serves the asks of peers on this node's own engines, while `run` runs; `watch_run` hears of each of them.

    `price_usd` is what they are asked for a million answer tokens.
    """

    def __init__(
        self,
        admission: Admission,
        bench: Bench,
        choose_local: ChooseLocal,
        own: bytes = b"",
        *,
        watch_run: WatchRun = lambda _job, _origin: lambda _code, _usage: None,
        price_usd: float = 0.0,
    ) -> None:
        self._admission = admission
        self._bench = bench
        self._choose_local = choose_local
        self._deliveries: dict[Asked, Delivery] = {}
        self._making: dict[trio.CancelScope, None] = {}
        bench.gate.watch(self._on_gate)
        self._own = own
        self._watch_run = watch_run
        self._price_usd = price_usd
        self._places = Places()
        bench.kept_for_others = self._kept_for_others

    async def serve(self, link: Link, stream: Stream, opening: messages.Open) -> None:
        """Answer one ask, or go on with one; the asker's reset cancels the run at once."""
        try:
            asked = await self._read_asked(link, stream)
            if isinstance(asked, inner.Reattach):
                delivery = self._attached(link, stream, asked)
            else:
                delivery = self._begun(link, stream, _checked(asked.job, opening.remaining_ms))
            await delivery.attend(stream)
        except MeshError as error:
            log.info("ask failed", request=_named(opening.request), origin=link.name, code=error.code)
            await send_failure(stream, error)
        except StreamLost as error:
            log.debug("asker left", request=_named(opening.request), origin=link.name, code=error.code.name)

    async def _read_asked(self, link: Link, stream: Stream) -> inner.Ask | inner.Reattach:
        """What is asked for, after the question how this node is, if that comes first."""
        message = await _read_first(stream)
        if isinstance(message, inner.Probe):
            answer, place = answer_probe(
                self._bench, self._places, link.node, message, link.rtt_ms, self._price_usd
            )
            try:
                await stream.send_message(answer)
                asked = await _read_first(stream)
            finally:
                if place is not None:
                    self._places.free(link.node, message.digest, place)
            if isinstance(asked, inner.Ask):
                return asked
        elif message is not None:
            return message
        raise BadRequest("A stream for an ask carries exactly one Ask or Reattach, at once.")

    def _kept_for_others(self, digest: bytes, origin: bytes) -> int:
        """Places that count for the jobs of a node; for this node's own none does."""
        if origin == self._own:
            return 0
        return self._places.held(digest, origin, trio.current_time()).requests

    # --- Which runs there are ---

    def _begun(self, link: Link, stream: Stream, job: Job) -> Delivery:
        """A fresh run, in place of what the same node asked for under the same name."""
        if self._nursery is None:
            raise Unreachable("The node is stopping.")
        asked = (link.key, request_of(job))
        if (former := self._deliveries.pop(asked, None)) is not None:
            former.give_up()
        log.info("ask accepted", request=job.id, origin=link.name, way=link.remote)
        deadline = trio.current_time() + job.deadline_ms / 1000
        delivery = Delivery(stream, deadline, keeps=self._has_room_for(link.key))
        self._deliveries[asked] = delivery
        self._nursery.start_soon(self._deliver, delivery, job, link.node, asked)
        return delivery

    def _has_room_for(self, key: bytes) -> bool:
        """Whether one more answer for the node with this key may be kept; those that are over make room."""
        kept = [(asked, one) for asked, one in self._deliveries.items() if one.keeps]
        same = [(asked, one) for asked, one in kept if asked[0] == key]
        for among, most in ((same, REPLAYS_PER_KEY), (kept, REPLAYS_TOTAL)):
            if len(among) >= most:
                over = next((one for _, one in among if one.over), None)
                if over is None:
                    return False
                over.give_up()
                over.keeps = False
        return True

    def _attached(self, link: Link, stream: Stream, asked: inner.Reattach) -> Delivery:
        """The run that this very node asked for, which goes on over this stream."""
        delivery = self._deliveries.get((link.key, asked.request))
        if delivery is None or not delivery.attach(stream, asked.next_item, ACCEPTED):
            raise Unreachable("Nothing of that answer is kept here (any more).")
        request = _named(asked.request)
        log.info("asker is back", request=request, origin=link.name, way=link.remote, item=asked.next_item)
        return delivery

    # --- One run ---

    async def _deliver(self, delivery: Delivery, job: Job, origin: bytes, asked: Asked) -> None:
        """Run a job until its answer has gone out, and keep it for a while."""
        try:
            with delivery.scope:
                await self._answer(delivery, job, origin)
                await delivery.linger()
        finally:
            delivery.close()
            if self._deliveries.get(asked) is delivery:
                del self._deliveries[asked]

    async def _answer(self, delivery: Delivery, job: Job, origin: bytes) -> None:
        """Run a job, and send its answer at the pace of its class, to the End or the error."""
        if self._nursery is None:
            return
        code, usage, on_over = CANCELLED, Usage(), self._watch_run(job, origin)
        pace = Pace(delivery, manner_of(job.wish.privacy))
        with pace.kept(self._nursery):
            try:
                with self._admission.place():
                    end = await self._make_in_time(pace, job, origin)
                code, usage = OK, end.usage
                await pace.end(ended(end))
            except MeshError as error:
                code = error.code
                log.info("ask failed", request=job.id, code=error.code)
                await pace.end(failure(error))
            except Exception:  # whatever goes wrong with one ask must not end what others use too
                code = MeshError.code
                log.exception("ask broke", request=job.id)
                await pace.end(failure(MeshError(INTERNAL)))
            finally:
                on_over(code, usage)

    def _on_gate(self) -> None:
        """The owner wants the machine: the gate has told the runs, which end when they next look."""
        if not self._bench.gate.openness.takes_others:
            for scope in self._making:
                _end_soon(scope)

    async def _make_in_time(self, pace: Pace, job: Job, origin: bytes) -> End:
        """As `_make`, and left in any case soon after the owner wants the machine; raises Yielded then."""
        self._bench.gate.check_open(others=True)
        with trio.CancelScope() as scope:
            self._making[scope] = None
            try:
                return await self._make(pace, job, origin, partial(_end_soon, scope))
            finally:
                del self._making[scope]
        raise yielded()

    async def _make(self, pace: Pace, job: Job, origin: bytes, on_end: Callable[[], None]) -> End:
        """Run a job; its end, which is told once the run has been left."""
        card = await self._card(job)
        self._bench.check_open(card.digest)
        if (refused := refusal(job, card, self._price_usd)) is not None:
            raise refused
        with self._showing_life(pace, card.digest) as life:
            async with self._bench.run(card.digest, job, origin, others=True, on_end=on_end) as pieces:
                async for emitted in pieces:
                    life.cancel()
                    if isinstance(emitted, End):
                        return emitted
                    await pace.put(emitted)
        raise EngineFailed("The engine stopped without ending the answer.")

    @contextmanager
    def _showing_life(self, pace: Pace, digest: bytes) -> Iterator[trio.CancelScope]:
        """Tell the asker from time to time that its turn comes, as long as the engine works, until cancelled."""
        scope = trio.CancelScope()
        if self._nursery is not None:
            self._nursery.start_soon(self._show_life, pace, digest, scope)
        try:
            yield scope
        finally:
            scope.cancel()

    async def _show_life(self, pace: Pace, digest: bytes, scope: trio.CancelScope) -> None:
        with scope:
            before = None
            while (engine := self._bench.engine_for(digest)) is not None:
                load = self._bench.gate.load(engine)
                if before is not None and _works(before, load):
                    await pace.put(WAITING)
                before = load
                await trio.sleep(LIFE_EVERY_S)

    async def _card(self, job: Job) -> ModelCard:
        """The model of this node that the job means; an engine that restarts, and is still advertised, is
        waited for.
        """
        try:
            return self._choose_local(job)
        except ModelNotFound:
            if not self._bench.loading:
                raise
        await self._bench.settled()
        return self._choose_local(job)


def _named(request: bytes) -> str:
    """A request's id as another node gave it, for a log."""
    return request.decode("ascii", "replace")


def _end_soon(scope: trio.CancelScope) -> None:
    scope.deadline = min(scope.deadline, trio.current_time() + YIELD_S)


def _works(before: Load, after: Load) -> bool:
    """Whether something was done between two looks: what only came in makes all of it grow."""
    return (
        after.in_flight < before.in_flight
        or after.queued_prefill < before.queued_prefill
        or after.queued_decode < before.queued_decode
    )


async def _read_first(stream: Stream) -> inner.Probe | inner.Ask | inner.Reattach | None:
    """What a stream begins with; None where nothing comes in time, or nothing that belongs there."""
    with trio.move_on_after(ASK_WITHIN_S):
        message = await stream.receive_message()
        if isinstance(message, inner.Probe | inner.Ask | inner.Reattach):
            return message
    return None


def _checked(packed: bytes, clear_ms: int) -> Job:
    """The job, unless it should not have come here; the lesser of both deadlines holds."""
    try:
        job = unpack_job(packed)
    except RemoteWireError as error:
        raise BadRequest(str(error)) from error
    if job.wish.privacy is Privacy.LOCAL:
        raise NotAllowed("A job of class local must not leave its node.", param="privacy")
    deadline_ms = min(job.deadline_ms, clear_ms or job.deadline_ms)
    return msgspec.structs.replace(job, deadline_ms=deadline_ms)
