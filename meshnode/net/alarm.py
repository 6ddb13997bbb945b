"""Waking one task at a time that may still change while it waits."""

import math
from collections.abc import Callable

import trio

CallAt = Callable[[float, Callable[[], object]], None]


class Alarm:
    """Wakes the one who waits: at once, or at a time that may be set while it waits.

    `call_at` calls back at a time of trio's clock; without it, waiting is in a cancel scope.
    """

    def __init__(self, call_at: CallAt | None) -> None:
        self._call_at = call_at
        self._waiting: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()

    def ring(self) -> None:
        """Wake whoever waits."""
        if self._waiting is not None:
            task, self._waiting = self._waiting, None
            trio.lowlevel.reschedule(task)

    def ring_at(self, moment: float) -> None:
        """Wake whoever waits then."""
        if self._call_at is None:
            self._scope.deadline = moment
        else:
            self._call_at(moment, self.ring)

    async def wait(self, until: float = math.inf) -> None:
        """Wait until it rings, or until then; raises BusyResourceError if somebody does already."""
        if self._call_at is None:
            with trio.CancelScope(deadline=until) as self._scope:
                await self._park()
        else:
            if until < math.inf:
                self._call_at(until, self.ring)
            await self._park()

    async def _park(self) -> None:
        """As in a `ParkingLot`, which costs more, and is for many who wait."""
        if self._waiting is not None:
            raise trio.BusyResourceError("Somebody waits already.")
        self._waiting = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._leave)

    def _leave(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiting = None
        return trio.lowlevel.Abort.SUCCEEDED
