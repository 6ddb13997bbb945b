"""Events on their way out: sent at once, or together while tokens come faster than anybody reads.

Whoever takes a token (the node, its client) does so on the cores that compute the next one, and a compute thread
that has to step aside holds up the others. So what is only the next token of a running answer waits, at most
HOLD_S, and leaves with those after it as one.
"""

import time
from collections.abc import Callable, Sequence

from meshnode.engine.worker.frames import Alive, Event, Measured, Written

HOLD_S = 0.02  # since the last sending: fifty times a second looks like a flow


class Outbox:
    """Events in order; those that continue a run's last `Written` are joined to it."""

    def __init__(
        self,
        emit: Callable[[Sequence[Event]], None],
        *,
        hold_s: float = HOLD_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._emit = emit
        self._hold_s = hold_s
        self._clock = clock
        self._events: list[Event] = []
        self._open: dict[
            int, int
        ] = {}  # where the last Written of a run lies, if nothing of the run came after
        self._urgent = False
        self._sent_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._events)

    def add(self, *events: Event) -> None:
        """What is to leave."""
        for event in events:
            if isinstance(event, Written):
                self._write(event)
            else:
                self._urgent |= not isinstance(event, Alive | Measured)
                self._open.pop(getattr(event, "number", 0), None)
                self._events.append(event)

    def _write(self, event: Written) -> None:
        self._urgent |= event.first_index == 0 or bool(event.calls)
        place = self._open.get(event.number)
        if place is None:
            self._open[event.number] = len(self._events)
            self._events.append(event)
            return
        last = self._events[place]
        assert isinstance(last, Written)
        self._events[place] = _joined(last, event)

    def send_due(self) -> None:
        """Send, unless all there is may wait a little."""
        if self._urgent or self._clock() - self._sent_s >= self._hold_s:
            self.send()

    def send(self) -> None:
        """Send all there is."""
        if not self._events:
            return
        self._emit(self._events)
        self._events, self._open, self._urgent = [], {}, False
        self._sent_s = self._clock()


def _joined(first: Written, then: Written) -> Written:
    return Written(
        first.number,
        first.first_index,
        first.ids + then.ids,
        first.text + then.text,
        first.calls + then.calls,
        first.logprobs + then.logprobs,
    )
