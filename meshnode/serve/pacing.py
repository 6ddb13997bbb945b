"""How an answer goes out to another node, by its privacy class: at once, gathered and padded, or in even steps.

Whoever sees sealed messages pass sees how long each is and when it comes, and every token has a length and a moment
of its own. It knows neither links nor engines.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from meshnode.serve.emitting import joined, write
from meshnode.serve.replay import Delivery
from meshnode.terms import Emitted, End, Piece, Privacy, Progress
from meshwire import inner
from meshwire.codec import encode_inner
from meshwire.limits import GATHER_S, PAD_BYTES, PAD_STEADY_BYTES, STEADY_END_STEPS, STEADY_S
from meshwire.numbers import Message
from meshwire.padding import padded

WAITING_MAX = 256  # items that may wait for the next step; the run waits then
GATHERED_CHARACTERS = 32 * 1024  # in one piece
FILLER = inner.Progress(0, 0, True)


@dataclass(frozen=True, slots=True)
class Manner:
    """What others may tell from lengths and times.

    Messages are padded to multiples of `bucket` bytes, 0 for not at all, and come `step_s` seconds apart at least;
    what is written meanwhile goes together. With `steady` there is one in each step whether or not anything was
    written, and their number is a multiple of STEADY_END_STEPS.
    """

    bucket: int = 0
    step_s: float = 0.0
    steady: bool = False


MANNERS = {
    Privacy.PUBLIC: Manner(),
    Privacy.PRIVATE: Manner(PAD_BYTES, GATHER_S),
    Privacy.SENSITIVE: Manner(PAD_STEADY_BYTES, STEADY_S, steady=True),
}


def manner_of(privacy: Privacy) -> Manner:
    """How jobs and answers of a class travel; class local does not."""
    return MANNERS.get(privacy, MANNERS[Privacy.SENSITIVE])


class Pace:
    """Between a run and the delivery of its answer. Whoever runs `put`s, and `end`s, inside `kept`."""

    def __init__(self, delivery: Delivery, manner: Manner) -> None:
        self._delivery = delivery
        self._manner = manner
        self._waiting: list[Emitted] = []
        self._final: Message | None = None
        self._progress: inner.Progress | None = None
        self._steps = 0
        self._begun = False  # before, an end tells nothing of an answer
        self._next = trio.current_time()
        self._bell = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._ending = trio.Event()
        self._over = trio.Event()
        self._fault: Exception | None = None

    @contextmanager
    def kept(self, nursery: trio.Nursery) -> Iterator[None]:
        """The pace is kept, by a task in `nursery`, until this is left."""
        scope = trio.CancelScope()
        if self._manner.step_s:
            nursery.start_soon(self._keep, scope)
        else:
            self._over.set()
        try:
            yield
        finally:
            scope.cancel()

    async def put(self, emitted: Emitted) -> None:
        """Take what the run emits, anything but its End; waits while much has not gone out."""
        while len(self._waiting) >= WAITING_MAX and not self._over.is_set():
            await self._room.park()
        self._check()
        if self._over.is_set():
            await self._send(emitted)
        elif isinstance(emitted, Progress):
            await self._tell(inner.Progress(emitted.done, emitted.total))
        else:
            self._begun = True
            self._waiting.append(emitted)
            self._bell.unpark_all()

    async def end(self, message: Message) -> None:
        """Send an End or a Fail after all else, and wait until it has gone out."""
        if not self._over.is_set():
            self._final = message
            self._ending.set()
            self._bell.unpark_all()
            await self._over.wait()
            self._check()
        else:
            await self._delivery.put((self._encoded(message),), last=True)

    def _check(self) -> None:
        """What could not be sent is the fault of whoever gave it."""
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    # --- The task that keeps it ---

    async def _keep(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                while not await self._step():
                    pass
            except Exception as fault:  # noqa: BLE001 - whoever puts or ends hears of it
                self._fault = fault
            finally:
                self._over.set()
                self._room.unpark_all()

    async def _step(self) -> bool:
        """One step; whether it was the last."""
        if not (self._manner.steady or self._waiting or self._final):
            await self._bell.park()
        await self._next_due()
        self._steps += 1
        over = await self._send_due()
        self._next = self._after(trio.current_time())
        return over

    async def _next_due(self) -> None:
        """Wait for the next step. Nothing more can be gathered once the end is known."""
        if self._manner.steady:
            await trio.sleep_until(self._next)
            return
        with trio.move_on_at(self._next):
            await self._ending.wait()

    def _after(self, now: float) -> float:
        """When the next step is; steps that were missed are not made up for."""
        step_s = self._manner.step_s
        if not self._manner.steady:
            return now + step_s
        return self._next + step_s * (1 + max(0.0, now - self._next) // step_s)

    async def _send_due(self) -> bool:
        """What one step sends; whether the end was among it. In a steady pace that has a step of its own."""
        waiting, self._waiting = self._waiting, []
        self._room.unpark_all()
        for emitted in gathered(waiting):
            await self._send(emitted)
        steady = self._manner.steady
        if self._waiting or (waiting and steady):
            return False
        if self._final is not None and not (steady and self._begun and self._steps % STEADY_END_STEPS):
            await self._delivery.put((self._encoded(self._final),), last=True)
            return True
        if steady:
            await self._delivery.tell(self._encoded(self._progress or FILLER))
            self._progress = None
        return False

    # --- Sending ---

    async def _send(self, emitted: Emitted) -> None:
        encoded = tuple(self._encoded(message) for message in write(emitted))
        if isinstance(emitted, Progress):
            await self._delivery.tell(encoded[0])
        else:
            await self._delivery.put(encoded)

    async def _tell(self, progress: inner.Progress) -> None:
        """Send it now, or in a steady pace in the place of the next filler."""
        if self._manner.steady:
            self._progress = progress
        else:
            await self._delivery.tell(self._encoded(progress))

    def _encoded(self, message: Message) -> bytes:
        return padded(encode_inner(message), self._manner.bucket)


def gathered(items: Sequence[Emitted]) -> Iterator[Emitted]:
    """The same in as few items as say the same: pieces that follow each other become one."""
    group: list[Piece] = []
    for item in items:
        if group and not (isinstance(item, Piece) and _goes_on(group, item)):
            yield joined(group)
            group = []
        if isinstance(item, Piece):
            group.append(item)
        else:
            yield item
    if group:
        yield joined(group)


def _goes_on(group: Sequence[Piece], piece: Piece) -> bool:
    """Whether a piece may be one with these; where ids are missing, or calls come, who reads must see it apart."""
    if group[-1].calls or piece.calls or bool(piece.ids) != bool(group[0].ids):
        return False
    next_index = group[0].first_index + sum(len(one.ids) for one in group)
    characters = sum(len(one.text) for one in group) + len(piece.text)
    return piece.first_index == next_index and characters <= GATHERED_CHARACTERS


def ended(end: End) -> Message:
    """The message that says a clean end."""
    (message,) = write(end)
    return message
