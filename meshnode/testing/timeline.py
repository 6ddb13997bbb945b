"""What happened in a simulation, for people to read: what was done to the mesh, and what its nodes logged."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import structlog
import trio

NODE = "node"  # the context variable that says whose log line it is
EVENTS_MAX = 10_000
TOLD = 60
_LEFT_OUT = frozenset({NODE, "event", "level", "room", "log_level"})


class Event(NamedTuple):
    """One line: seconds since the beginning, the node (or "" for what was done to the mesh), and what."""

    at_s: float
    node: str
    what: str


class Timeline:
    """The events of one run in order; only the last EVENTS_MAX are kept."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=EVENTS_MAX)

    def add(self, what: str, node: str = "") -> None:
        """Something happened now."""
        self.events.append(Event(trio.current_time(), node, what))

    def told(self, last: int = TOLD) -> str:
        """The last events, one a line."""
        events = list(self.events)[-last:]
        left_out = len(self.events) - len(events)
        lines = [f"{at_s:9.3f} s  {node or '—':12} {what}" for at_s, node, what in events]
        return "\n".join([f"… {left_out} earlier events", *lines] if left_out else lines)

    @contextmanager
    def of_logs(self, level: int) -> Iterator[None]:
        """Take everything that is logged in this context at this level or above, which then goes nowhere else."""
        before = structlog.get_config()
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.format_exc_info,
                self._take,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.configure(**before)

    def _take(self, _logger: Any, _method: str, fields: Any) -> Any:
        facts = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _LEFT_OUT)
        self.add(f"{fields.get('event', '')} {facts}".strip(), str(fields.get(NODE, "")))
        raise structlog.DropEvent
