"""Spans, alone: parents by traceparent, nothing at all without OpenTelemetry, and what may stand on one."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from meshnode.observe.trace import TEXT_CHARACTERS_MAX, available, parsed, tracer, untraced
from tests.spans import exported, named, parent_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    with exported() as exporter:
        yield exporter


def test_a_span_is_under_the_traceparent_it_was_given(exporter: InMemorySpanExporter) -> None:
    above = tracer().begin("meshnode.request", PARENT, kind="server", request="req-1")
    below = tracer().begin("meshnode.choose", above.traceparent)
    assert above.records
    below.end()
    above.end()
    (request,), (choose,) = named(exporter, "request"), named(exporter, "choose")
    assert request.context is not None
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{parent_of(request):016x}" == SPAN
    assert parent_of(choose) == request.context.span_id
    assert request.kind is SpanKind.SERVER
    assert dict(request.attributes or {}) == {"meshnode.request": "req-1", "meshnode.outcome": "ok"}
    assert parsed(above.traceparent) == above.traceparent


def test_the_programs_own_span_counts_only_where_it_is_asked_for(exporter: InMemorySpanExporter) -> None:
    with trace.get_tracer("the program").start_as_current_span("its own") as own:
        tracer().begin("meshnode.request", ambient=True).end()
        tracer().begin("meshnode.worker").end()
        tracer().begin("meshnode.choose", PARENT, ambient=True).end()
    assert parent_of(named(exporter, "request")[0]) == own.get_span_context().span_id
    assert parent_of(named(exporter, "worker")[0]) == 0
    assert f"{parent_of(named(exporter, 'choose')[0]):016x}" == SPAN


@pytest.mark.parametrize(
    "given",
    [
        "",
        "rubbish",
        PARENT[:-1],
        PARENT + "0",
        PARENT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        PARENT + "\n",
    ],
)
def test_what_is_no_traceparent_is_ignored(exporter: InMemorySpanExporter, given: str) -> None:
    assert parsed(given) == ""
    tracer().begin("meshnode.request", given).end()
    assert parent_of(named(exporter, "request")[0]) == 0


def test_an_unsampled_trace_is_handed_on_and_not_recorded(exporter: InMemorySpanExporter) -> None:
    span = tracer().begin("meshnode.request", PARENT[:-1] + "0")
    assert not span.records
    assert span.traceparent.startswith(f"00-{TRACE}-")
    assert span.traceparent.endswith("-00")
    span.end()
    assert exporter.get_finished_spans() == ()


def test_text_is_cut_and_errors_are_codes(exporter: InMemorySpanExporter) -> None:
    span = tracer().begin("meshnode.request", model="m" * 5000)
    span.end("busy")
    (request,) = named(exporter, "request")
    assert len(str((request.attributes or {})["meshnode.model"])) == TEXT_CHARACTERS_MAX
    assert (request.status.status_code, request.status.description) == (StatusCode.ERROR, "busy")
    cancelled = tracer().begin("meshnode.choose")
    cancelled.end("cancelled")
    assert named(exporter, "choose")[0].status.status_code is StatusCode.UNSET


WITHOUT = f"""
import sys
sys.modules["opentelemetry"] = None
from meshnode.observe.trace import available, tracer
assert not available()
span = tracer().begin("meshnode.request", {PARENT!r}, kind="server", ambient=True, request="req-1")
span.note(model="m")
span.end("busy")
print(span.records, span.traceparent)
"""


def test_without_opentelemetry_a_traceparent_is_only_handed_on() -> None:
    assert available()
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.stdout == f"False {PARENT}\n", done.stderr


API_ALONE = f"""
from meshnode.observe.trace import available, tracer
assert available()
span = tracer().begin("meshnode.request", {PARENT!r})
print(span.records, span.traceparent, tracer().begin("meshnode.request").traceparent == "")
"""


def test_without_a_provider_a_traceparent_is_only_handed_on() -> None:
    done = subprocess.run([sys.executable, "-c", API_ALONE], capture_output=True, text=True, check=False)
    assert done.stdout == f"False {PARENT} True\n", done.stderr


def test_what_is_simulated_makes_no_spans_whose_ids_no_seed_gives() -> None:
    with exported() as exporter:
        with untraced():
            tracer().begin("meshnode.request").end()
        assert not exporter.get_finished_spans()
        tracer().begin("meshnode.request").end()
        assert len(exporter.get_finished_spans()) == 1
