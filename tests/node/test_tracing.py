"""One request through three nodes, as its logs and its spans tell of it; and that neither tells what it was about."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshnode.errors import MeshError
from meshnode.observe import log
from tests.node.small_mesh import MODEL, World, engine_of, text_of, until
from tests.spans import exported, named, parent_of

CANARY = "canary-9f3a"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    with exported() as exporter:
        yield exporter


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Every line of every node, of every level."""
    out = io.StringIO()
    log.configure(wall=lambda: 0.0, out=out, level="debug")  # type: ignore[arg-type]
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    log.configure(wall=lambda: 0.0, level="warning")


async def test_the_spans_of_three_nodes_are_one_trace(world: World, exporter: InMemorySpanExporter) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        async with a.ask("hello", model=MODEL, max_tokens=5, trace=f"00-{TRACE}-{SPAN}-01") as running:
            await text_of(running)
        await until(lambda: named(exporter, "worker"))
        (request,), (choose,) = named(exporter, "request"), named(exporter, "choose")
        (attempt,), (worker,) = named(exporter, "attempt"), named(exporter, "worker")
        assert {f"{span.context.trace_id:032x}" for span in exporter.get_finished_spans()} == {TRACE}
        assert f"{parent_of(request):016x}" == SPAN
        assert parent_of(choose) == parent_of(attempt) == request.context.span_id
        assert parent_of(worker) == attempt.context.span_id
        ids = {(span.attributes or {})["meshnode.request"] for span in (request, choose, attempt, worker)}
        assert len(ids) == 1
        facts = dict(attempt.attributes or {})
        assert facts["meshnode.peer"] == c.snapshot().node
        assert (facts["meshnode.rung"], facts["meshnode.links"]) == ("peer", 2)
        assert dict(worker.attributes or {})["meshnode.origin"] == a.snapshot().node
        assert dict(worker.attributes or {})["meshnode.answer_tokens"] == 5
        outcomes = {(span.attributes or {})["meshnode.outcome"] for span in exporter.get_finished_spans()}
        assert outcomes == {"ok"}


async def test_each_attempt_is_a_span_with_its_outcome(world: World, exporter: InMemorySpanExporter) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a"))
        others = [await stack.enter_async_context(world.node(name, engine="scripted")) for name in "bc"]
        for other in others:
            await other.join(await a.invite())
        await until(lambda: len(a.models()) == 1 and len(a.models()[0].nodes) == 2)
        async with a.ask("hello", model=MODEL, max_tokens=20) as running:
            first = next(node for node in others if running.answer.served_by.startswith(node.config.name))
            await anext(running.pieces)
            engine_of(first).crash()
            await text_of(running)
        await until(lambda: len(named(exporter, "worker")) == 2)
        (request,) = named(exporter, "request")
        broken, went_on = named(exporter, "attempt")
        assert (broken.attributes or {})["meshnode.outcome"] == "engine_crashed"
        assert (went_on.attributes or {})["meshnode.outcome"] == "ok"
        assert (went_on.attributes or {})["meshnode.resumed"] > 0
        assert parent_of(broken) == parent_of(went_on) == request.context.span_id
        workers = {parent_of(span) for span in named(exporter, "worker")}
        assert workers == {broken.context.span_id, went_on.context.span_id}


async def test_a_lost_way_is_come_back_from_although_it_is_traced(
    world: World, exporter: InMemorySpanExporter
) -> None:
    """A traced run at another node can still be taken up again: the span in between hides nothing of it."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a"))
        b = await stack.enter_async_context(world.node("b", engine="scripted"))
        await b.join(await a.invite())
        await until(a.models)
        async with a.ask("hello", model=MODEL, max_tokens=30) as running:
            await anext(running.pieces)
            world.network.reset("a", "b")
            text = await text_of(running)
        assert text
        await until(lambda: named(exporter, "worker"))
        assert len(named(exporter, "attempt")) == len(named(exporter, "worker")) == 1


async def test_one_request_id_is_in_the_lines_of_origin_and_worker_and_the_circuit_in_all(
    world: World, lines: Lines
) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        async with a.ask("hello", model=MODEL, max_tokens=5) as running:
            await text_of(running)
        told = lines()
    (over,) = [line for line in told if line["event"] == "request over"]
    assert (over["rung"], over["outcome"], over["tokens"]) == ("peer", "ok", 5)
    (sent,) = [line for line in told if line["event"] == "ask sent"]
    (accepted,) = [line for line in told if line["event"] == "ask accepted"]
    assert over["request"] == sent["request"] == accepted["request"]
    circuit = sent["way"].partition(" via ")[0]
    assert circuit.startswith("circuit ")
    assert accepted["way"].partition(" from ")[0] == circuit
    (carried,) = [line for line in told if line["event"] == "circuit carried"]
    assert carried["way"] == circuit
    assert carried["origin"] == a.snapshot().node
    assert carried["onward"] == c.snapshot().node


async def test_prompts_and_answers_are_in_no_line_no_span_and_no_metric(
    world: World, lines: Lines, exporter: InMemorySpanExporter
) -> None:
    schema = {"type": "object", "properties": {CANARY: {"type": "boolean"}}, "required": [CANARY]}
    tool = {"name": "look", "description": CANARY, "parameters": {"type": "object"}}
    async with AsyncExitStack() as stack:
        nodes = await world.line(stack)
        a, _, c = nodes
        said = []
        for wishes in ({}, {"schema": schema}, {"tools": (tool,), "stop": (CANARY,)}, {"tenant": CANARY}):
            async with a.ask(f"The word is {CANARY}.", model=MODEL, max_tokens=20, **wishes) as running:
                said.append(await text_of(running))
        await a.embed([CANARY, "sand"])
        engine_of(c).crash_after(3)
        async with a.ask(f"Once more: {CANARY}.", model=MODEL, max_tokens=20) as running:
            said.append(await text_of(running))
        for hopeless, tier in ((f"{CANARY} " * 3000, 0), (CANARY, 6)):
            with pytest.raises(MeshError):
                async with a.ask(hopeless, model=MODEL, deadline_s=2, min_tier=tier) as running:
                    await text_of(running)
        with trio.move_on_after(0.2):
            async with a.ask(f"{CANARY}?", model=MODEL, max_tokens=500) as running:
                await text_of(running)
        await trio.sleep(15.0)
        assert any(CANARY in text for text in said), (
            "the answers must hold it too, or this shows nothing of them"
        )
        spans = [span.to_json() for span in exporter.get_finished_spans()]
        metrics = [node.metrics.exposition().decode() for node in nodes]
        told = [json.dumps(line, ensure_ascii=False) for line in lines()]
    assert len(spans) > 20
    assert sum("request" in line for line in told) > 10
    for word in (CANARY, *(text for text in said if len(text) > 20)):
        assert not [one for one in (*told, *spans, *metrics) if word in one]
