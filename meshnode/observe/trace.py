"""Spans of OpenTelemetry, where its API is installed and the embedding program has set it up; else nothing at all.

A span's parent travels as a W3C `traceparent`, in a Job and nowhere else: the ambient context of a task would be
inherited by links and circuits that outlive the request. What may stand on a span is decided here: names, counts and
codes. No exception is recorded on one, since its message may quote a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer as OtelTracer

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
TEXT_CHARACTERS_MAX = 128
_SILENT: ContextVar[bool] = ContextVar("untraced", default=False)
Value = str | int | float | bool


class Span(Protocol):
    """One step of one request."""

    @property
    def records(self) -> bool:
        """Whether anybody will see it; where nobody does, what is only for it can be left."""
        ...

    @property
    def traceparent(self) -> str:
        """What makes another span its child, here or elsewhere; empty for none."""
        ...

    def note(self, **facts: Value) -> None:
        """Facts about it, each of whose names gets `meshnode.` before it; text is cut."""
        ...

    def end(self, outcome: str = "ok") -> None:
        """It is over; `outcome` is ok, cancelled, or the code of an error."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def begin(
        self, name: str, parent: str = "", *, kind: str = "internal", ambient: bool = False, **facts: Value
    ) -> Span:
        """A span that begins now, under a `traceparent`. `kind` is internal, client or server.

        Without a parent it is the first of a trace, or, if `ambient`, under the span that the calling program is in.
        """
        ...


def tracer() -> Tracer:
    """The tracer of this process: whatever provider the program sets, before or after."""
    if _SILENT.get() or not available():
        return _Silent()
    from opentelemetry import trace

    return _Otel(trace.get_tracer("meshnode"))


@contextmanager
def untraced() -> Iterator[None]:
    """Nodes that are made meanwhile make no spans: the ids of these come from no seed, and travel in jobs."""
    before = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(before)


def available() -> bool:
    """Whether OpenTelemetry's API is installed."""
    try:
        return find_spec("opentelemetry.trace") is not None
    except (ImportError, ValueError):
        return False


def parsed(traceparent: str) -> str:
    """A `traceparent` that is well formed, as W3C has it; empty for anything else, which is to be ignored."""
    return traceparent if TRACEPARENT.fullmatch(traceparent) else ""


class _Quiet:
    """A span that nobody sees: its children are those of its parent."""

    records = False

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def note(self, **facts: Value) -> None:
        pass

    def end(self, outcome: str = "ok") -> None:
        pass


class _Silent:
    """For a process without OpenTelemetry."""

    def begin(
        self, name: str, parent: str = "", *, kind: str = "internal", ambient: bool = False, **facts: Value
    ) -> Span:
        return _Quiet(parent)


class _Otel:
    """Spans of whatever provider the program has set."""

    def __init__(self, made_by: OtelTracer) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._made_by = made_by
        self._kinds = {kind.name.lower(): kind for kind in SpanKind}
        self._no_context, self._propagator = Context(), TraceContextTextMapPropagator()

    def begin(
        self, name: str, parent: str = "", *, kind: str = "internal", ambient: bool = False, **facts: Value
    ) -> Span:
        context = None if ambient else self._no_context
        if parent:
            context = self._propagator.extract({"traceparent": parsed(parent)})
        span = self._made_by.start_span(name, context, self._kinds[kind])
        if not span.is_recording():
            return _Quiet(_traceparent_of(span) or parent)
        recording = _Recording(span)
        recording.note(**facts)
        return recording


class _Recording:
    """A span that somebody will see."""

    records = True

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        self.traceparent = _traceparent_of(span)

    def note(self, **facts: Value) -> None:
        for name, value in facts.items():
            cut = value[:TEXT_CHARACTERS_MAX] if isinstance(value, str) else value
            self._span.set_attribute(f"meshnode.{name}", cut)

    def end(self, outcome: str = "ok") -> None:
        from opentelemetry.trace import StatusCode

        self.note(outcome=outcome)
        if outcome not in ("ok", "cancelled"):
            self._span.set_status(StatusCode.ERROR, outcome)
        self._span.end()


def _traceparent_of(span: OtelSpan) -> str:
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
