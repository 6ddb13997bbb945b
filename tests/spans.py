"""One in-memory exporter for all tests about spans: OpenTelemetry takes one provider in a process, for good."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, Sampler, SamplingResult


class _WhileWatched(Sampler):
    """As OpenTelemetry samples by itself while a test looks on, and nothing for all other tests of the process."""

    watched = False

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return (DEFAULT_ON if self.watched else ALWAYS_OFF).should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "while watched"


_EXPORTER, _SAMPLER = InMemorySpanExporter(), _WhileWatched()
_PROVIDERS: list[TracerProvider] = []


@contextmanager
def exported() -> Iterator[InMemorySpanExporter]:
    """What is exported from here on."""
    if not _PROVIDERS:
        provider = TracerProvider(_SAMPLER, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(_EXPORTER))
        trace.set_tracer_provider(provider)
        _PROVIDERS.append(provider)
    _EXPORTER.clear()
    _SAMPLER.watched = True
    try:
        yield _EXPORTER
    finally:
        _SAMPLER.watched = False


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """The spans of this name, in the order of their ends."""
    return [span for span in exporter.get_finished_spans() if span.name == f"meshnode.{name}"]


def parent_of(span: ReadableSpan) -> int:
    """The id of the parent, 0 for none."""
    return span.parent.span_id if span.parent is not None else 0
