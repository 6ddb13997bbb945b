"""Tools, schemas, likelihoods, vectors and shared prompts over a whole mesh: A asks, B passes on, C answers."""

import json
from contextlib import AsyncExitStack

import msgspec
import pytest

from meshnode import Node
from meshnode.errors import BadRequest, NoCandidate
from meshnode.node.asking import job_from
from meshnode.serve.running import Running
from meshnode.terms import End, FinishReason, Job, Piece, ToolCall
from tests.node.small_mesh import MODEL, World

LOOK = {"name": "look", "parameters": {"required": ["at"], "properties": {"at": {"enum": ["sea", "land"]}}}}


async def taken(running: Running) -> tuple[list[Piece], End]:
    *pieces, end = [item async for item in running.pieces if isinstance(item, Piece | End)]
    assert isinstance(end, End)
    return [piece for piece in pieces if isinstance(piece, Piece)], end


async def test_a_tool_is_called_two_links_away(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        async with a.ask("hello", model=MODEL, tools=[LOOK], tool_choice="required") as running:
            pieces, end = await taken(running)
        assert running.answer.served_by.startswith("c#")
    (call,) = [call for piece in pieces for call in piece.calls]
    assert isinstance(call, ToolCall)
    assert json.loads(call.arguments) == {"at": "sea"}
    assert end.reason is FinishReason.TOOL_CALLS


async def test_json_and_likelihoods_come_from_two_links_away(world: World) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 7}}}
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        async with a.ask("hello", model=MODEL, schema=schema, logprobs=True, top_logprobs=3) as running:
            pieces, end = await taken(running)
        with pytest.raises(BadRequest) as caught:
            async with a.ask("hello", model=MODEL, schema={"type": "colour"}):
                pass
    assert json.loads("".join(piece.text for piece in pieces)) == {"n": 7}
    written = [one for piece in pieces for one in piece.logprobs]
    assert len(written) == end.usage.completion_tokens
    assert {len(one.top) for one in written} == {3}
    assert caught.value.param == "response_format"


async def test_texts_are_embedded_two_links_away(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        vectors, answer = await a.embed(["sea and sand", "sea"], model=MODEL)
        own, local = await c.embed("sea", model=MODEL)
    assert answer.served_by.startswith("c#")
    assert (answer.rung, local.rung) == ("peer", "local")
    assert len(vectors) == 2
    assert vectors[1] == own[0]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1)


async def cached(node: Node, job: Job) -> int:
    async with node.run(job) as running:
        _, end = await taken(running)
    return end.usage.cached_tokens


async def test_a_prompt_is_shared_with_nobody_else_whatever_the_job_says(world: World) -> None:
    """B writes A's tag into its own job, and the node that serves asks the same: nobody finds A's prompt."""
    job = job_from("a long and secret prompt", {"model": MODEL, "tenant": "ann"}, "1", lambda _: b"ann's")
    public = msgspec.structs.replace(job, wish=msgspec.structs.replace(job.wish, privacy="public"))
    async with AsyncExitStack() as stack:
        a, b, c = await world.line(stack)
        found = [
            await cached(*each) for each in ((a, job), (a, job), (b, job), (c, job), (a, public), (b, job))
        ]
    assert found == [0, 8, 0, 0, 0, 8]


async def test_what_nobody_can_do_is_no_candidate(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        with pytest.raises(NoCandidate, match="lacks a feature"):
            async with a.ask("hello", model=MODEL, features=("telepathy",)):
                pass


async def test_a_tenant_reaches_the_wire_as_a_tag_only(world: World) -> None:
    tapped: list[bytes] = []
    async with AsyncExitStack() as stack:
        a, b, _ = await world.line(stack, {"relay_tap": tapped.append, "seal_circuits": False})
        async with a.ask("hello", model=MODEL, tenant="ann-of-accounting") as running:
            await taken(running)
    seen = b"".join(tapped)
    assert a.scopes.tag("ann-of-accounting") in seen
    assert b"ann-of-accounting" not in seen
    assert a.scopes.tag("ann") != b.scopes.tag("ann")
