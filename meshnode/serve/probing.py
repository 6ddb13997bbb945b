"""Asks candidates how they are, all at once, on the streams that the request may go over then. It decides nothing.

Whoever is asked keeps a place for as long as its stream is open, so the streams of those that are not chosen are
reset at once.
"""

import math
from collections.abc import Awaitable, Callable

import trio

from meshnode.errors import MeshError, Unreachable
from meshnode.net.link import Link, Stream, StreamLost
from meshnode.routing.ledger import Key, key_of
from meshnode.routing.plan import Choice
from meshnode.routing.probing import Asking, Reply, held_s
from meshnode.serve.emitting import Reader
from meshnode.serve.remote import lost, opening_of
from meshnode.tasks import Tasks
from meshnode.terms import Candidate, Job
from meshwire import inner
from meshwire.numbers import ResetCode

ANSWER_WITHIN_S = 5.0  # later than anybody waits for it: who says nothing at all by then has failed
PROBES_MAX = 512

Reach = Callable[[Candidate], Awaitable[Link]]
Note = Callable[[Candidate, Reply | None], None]
"""Hears what a candidate answered; None if it could not be asked."""


class Held:
    """A stream on which a place is kept."""

    def __init__(self, link: Link, stream: Stream) -> None:
        self.link = link
        self.stream = stream
        self.taken = False
        self.over = trio.Event()


class Prober(Tasks):
    """Asks, while `run` runs. Each probe is a task of its own that outlives the decision until its place is free."""

    def __init__(self, reach: Reach, note: Note) -> None:
        self._reach = reach
        self._note = note
        self._held: dict[tuple[str, Key], Held] = {}
        self._probes = 0

    async def ask(self, asking: Asking, job: Job) -> None:
        """Ask all that are to be asked, until there is nothing left to wait for."""
        bell = trio.Event()

        def ring() -> None:
            if asking.settled(trio.current_time()):
                bell.set()

        for choice in asking.asked:
            if self._nursery is None or self._probes >= PROBES_MAX:
                asking.failed(choice)
            else:
                self._probes += 1
                self._nursery.start_soon(self._probe, asking, choice, job, ring)
        ring()
        with trio.move_on_at(asking.until):
            await bell.wait()
        asking.decided = True

    def take(self, job: Job, candidate: Candidate) -> Held | None:
        """The stream on which this candidate keeps a place for the job, if it does; all others of the job end."""
        chosen = self._held.get((job.id, key_of(candidate)))
        if chosen is not None:
            chosen.taken = True
        self.let_go(job)
        return chosen

    def let_go(self, job: Job) -> None:
        """End what is held for a job, except what is taken."""
        for (request, _), held in self._held.items():
            if request == job.id:
                held.over.set()

    async def _probe(self, asking: Asking, choice: Choice, job: Job, ring: Callable[[], None]) -> None:
        try:
            await self._hold(asking, choice, job, ring)
        except MeshError as error:
            asking.failed(choice)
            if isinstance(error, Unreachable):
                self._note(choice.candidate, None)
        finally:
            self._probes -= 1
            ring()

    async def _hold(self, asking: Asking, choice: Choice, job: Job, ring: Callable[[], None]) -> None:
        """Ask one, and keep its stream open until it is taken, or given up, or its time is over."""
        candidate = choice.candidate
        with trio.move_on_after(ANSWER_WITHIN_S) as asking_time:
            link = await self._reach(candidate)
            stream = await link.open(opening_of(job))
            held = Held(link, stream)
            try:
                reply = await _ask(stream, candidate, job)
                asking_time.deadline = math.inf
                asking.answered(choice, reply)
                self._note(candidate, reply)
                if asking.keeps(choice) and not asking.decided:
                    await self._keep(held, candidate, job, ring)
            finally:
                if not held.taken:
                    stream.reset(ResetCode.CANCEL)
            return
        raise Unreachable("The node does not say how it is.")

    async def _keep(self, held: Held, candidate: Candidate, job: Job, ring: Callable[[], None]) -> None:
        key = (job.id, key_of(candidate))
        self._held[key] = held
        try:
            ring()
            with trio.move_on_after(held_s(candidate.rtt_ms)):
                await held.over.wait()
        finally:
            if self._held.get(key) is held:
                del self._held[key]


async def _ask(stream: Stream, candidate: Candidate, job: Job) -> Reply:
    """Raises MeshError: Unreachable where the stream is lost, or what the other end says instead."""
    wish = job.wish
    try:
        await stream.send_message(inner.Probe(candidate.card.digest, wish.prompt_tokens, wish.output_tokens))
        message = await stream.receive_message()
    except StreamLost as error:
        raise lost(error) from error
    if isinstance(message, inner.Fail):
        Reader().read(message)  # raises what it says
    if not isinstance(message, inner.Answer):
        raise Unreachable("The node does not say how it is.")
    return Reply(
        message.in_flight,
        message.queued_prefill,
        message.queued_decode,
        message.first_token_ms / 1000,
        message.accepting,
        message.price_usd,
    )
