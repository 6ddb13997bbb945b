"""Runs that several identical requests share. The run belongs to the flight: it ends when nobody is left in it.

It knows neither keys nor what is run; whoever starts a flight brings that.
"""

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import trio

from meshnode.errors import Interrupted, MeshError, as_mesh_error
from meshnode.observe import log
from meshnode.tasks import Tasks
from meshnode.terms import Answer, Emitted, End, Piece
from meshwire.limits import RESPONSE_MAX

CHARACTERS_MAX = RESPONSE_MAX  # of one flight, kept for those who come later
KEEP_S = 1.0  # no longer than this is a node that ends held up by an answer that is being kept
BROKE_OFF = "The answer broke off before its end."
_logger = log.get("cache")

Started = AbstractAsyncContextManager[tuple[Answer, AsyncIterator[Emitted]]]
Start = Callable[[], Started]
OnLanded = Callable[["Flight"], Awaitable[None]]


class Flight:
    """One run, and all that has come of it so far."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.answer: Answer | None = None
        self.items: list[Emitted] = []
        self.failure: Exception | None = None
        self.members = 0
        self.scope = trio.CancelScope()
        self._news = trio.Event()
        self._characters = 0

    @property
    def landed(self) -> bool:
        """Whether it came to its clean end."""
        return bool(self.items) and isinstance(self.items[-1], End)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.landed or self.failure is not None

    async def begun(self) -> Answer:
        """Who serves it, once that is known; raises what went wrong before."""
        while self.answer is None:
            if self.failure is not None:
                raise copy.copy(
                    self.failure
                )  # each member raises its own: a traceback grows where it is raised
            await self._news.wait()
        return self.answer

    async def item(self, index: int) -> Emitted | None:
        """The item of this number, waited for; None after the last. Raises what went wrong instead of it."""
        while index >= len(self.items):
            if self.landed:
                return None
            if self.failure is not None:
                raise copy.copy(self.failure)
            await self._news.wait()
        return self.items[index]

    def begin(self, answer: Answer) -> None:
        """Tell who serves it."""
        self.answer = answer
        self._tell()

    def add(self, item: Emitted) -> None:
        """One more item; raises Interrupted when more has come than is kept."""
        if isinstance(item, Piece):
            self._characters += len(item.text)
            if self._characters > CHARACTERS_MAX:
                raise Interrupted(f"The answer is longer than {CHARACTERS_MAX} characters.")
        self.items.append(item)
        self._tell()

    def fail(self, error: Exception) -> None:
        """Nothing more will come, for this reason."""
        if not self.over:
            self.failure = error
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


class Flights(Tasks):
    """The flights under way. `run` gives them a place to live; without it none can be started."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Flight] = {}
        self.landings = 0

    @property
    def can_start(self) -> bool:
        """Whether there is a place for new ones."""
        return self._nursery is not None

    def find(self, key: bytes, deadline: float) -> Flight | None:
        """The flight of a key that runs on at least until `deadline` (trio's time) and has not failed."""
        flight = self._by_key.get(key)
        fits = flight is not None and flight.failure is None and flight.deadline >= deadline
        return flight if fits else None

    def start(self, key: bytes, deadline: float, start: Start, on_landed: OnLanded) -> Flight:
        """A new flight, which later requests with this key join. Whoever starts it boards it at once."""
        assert self._nursery is not None
        flight = self._by_key[key] = Flight(deadline)
        self._nursery.start_soon(self._fly, key, flight, start, on_landed)
        return flight

    @contextmanager
    def aboard(self, flight: Flight) -> Iterator[None]:
        """Be one of those for whom a flight runs; when the last leaves, it ends."""
        flight.members += 1
        try:
            yield
        finally:
            flight.members -= 1
            if not flight.members and not flight.over:
                flight.fail(Interrupted(BROKE_OFF))
                flight.scope.cancel()

    async def _fly(self, key: bytes, flight: Flight, start: Start, on_landed: OnLanded) -> None:
        try:
            with flight.scope:
                await _flown(flight, start)
            if flight.landed:
                with trio.move_on_after(KEEP_S, shield=True):
                    await on_landed(flight)
                self.landings += 1
        finally:
            flight.fail(Interrupted(BROKE_OFF))
            if self._by_key.get(key) is flight:
                del self._by_key[key]


async def _flown(flight: Flight, start: Start) -> None:
    """All of the run into the flight; what goes wrong is its members' to hear."""
    try:
        async with start() as (answer, pieces):
            flight.begin(answer)
            async for item in pieces:
                flight.add(item)
    except Exception as error:
        known = as_mesh_error(error)
        if known is None:
            _logger.exception("a shared run failed")
            known = MeshError("Something went wrong inside the node.", hint=f"See {log.FILE_NAME}.")
        flight.fail(known)
