"""A node in front of a scripted server, on a mesh: what another node gets of it, and what its owner must allow."""

from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
import trio

from meshnode.config import Upstream
from meshnode.errors import Busy, EngineFailed, ModelNotFound, NoCandidate
from meshnode.observe.snapshot import EngineView
from meshnode.terms import End, Feature, FinishReason, Likelihood, Piece, TokenLogprob, ToolCall, Usage
from tests.engine.fake_upstream import (
    Reply,
    answer,
    counted,
    delta,
    ended,
    event,
    fake_upstream,
    streamed,
)
from tests.node.small_mesh import World, until

NAME = "qwen2.5:7b"


@asynccontextmanager
async def two_nodes(tmp_path, *, contained=True, **replies):
    """A, which has no model, and B, which fronts a scripted server; A has heard of what that offers."""
    world = World(tmp_path)
    async with fake_upstream(**replies) as fake, AsyncExitStack() as stack:
        upstream = Upstream(url=fake.url, name="mine", contained=contained)
        a = await stack.enter_async_context(world.node("a"))
        b = await stack.enter_async_context(world.node("b", upstreams=(upstream,)))
        await until(b.models)
        await b.join(await a.invite())
        await until(a.models if contained else lambda: a.snapshot().links)
        with trio.fail_after(30):
            yield a, b, fake


async def emitted(node, *, privacy="public", **wishes):
    """What comes of a question, in the pieces in which it was written, which other classes are not sent in."""
    async with node.ask("Hello?", model=NAME, deadline_s=20.0, privacy=privacy, **wishes) as running:
        return running.answer, [item async for item in running.pieces]


async def test_the_node_in_front_serves_itself_and_others(tmp_path):
    async with two_nodes(tmp_path) as (a, b, _):
        for node, rung in ((a, "peer"), (b, "local")):
            served, items = await emitted(node)
            assert (served.served_by[:2], served.rung, served.model) == ("b#", rung, NAME)
            assert items == [
                Piece(0, (), "Hello"),
                Piece(0, (), " there"),
                End(FinishReason.STOP, Usage(5, 2, 0)),
            ]
        view = b.snapshot().engine
        assert isinstance(view, EngineView)
        assert (view.kind, view.state, view.model) == ("upstream", "ready", NAME)


async def test_calls_and_likelihoods_cross_the_mesh_without_token_ids(tmp_path):
    entry = {"token": "Hm", "logprob": -0.5, "top_logprobs": [{"token": "Ah", "logprob": -1.0}]}
    parts = [
        event({"choices": [{"delta": {"content": "Hm"}, "logprobs": {"content": [entry]}}]}),
        delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "look", "arguments": "{}"}}]),
        ended("tool_calls"),
        counted(5, 9),
    ]
    async with two_nodes(tmp_path, chat=streamed(*parts)) as (a, _, fake):
        tools = [{"name": "look", "parameters": {"type": "object"}}]
        _, (text, call, end) = await emitted(a, privacy="private", tools=tools, logprobs=True, top_logprobs=1)
        assert fake.chat()["tools"][0]["function"]["name"] == "look"
    assert (text.text, text.logprobs) == ("Hm", (TokenLogprob(b"Hm", -0.5, (Likelihood(b"Ah", -1.0),)),))
    assert call.calls == (ToolCall("c1", "look", "{}"),)
    assert end == End(FinishReason.TOOL_CALLS, Usage(5, 9, 0))


async def test_texts_are_embedded_for_others(tmp_path):
    listing = {"data": [{"id": "nomic-embed-text:v1", "owned_by": "somebody"}]}
    vectors = {"data": [{"index": 0, "embedding": [3.0, 4.0]}], "usage": {"prompt_tokens": 2}}
    async with two_nodes(
        tmp_path,
        models=Reply(parts=[msgspec.json.encode(listing)]),
        embeddings=Reply(parts=[msgspec.json.encode(vectors)]),
    ) as (a, b, _):
        assert b.engines.all[0].cards[0].features == (Feature.EMBEDDINGS,)
        got, served = await a.embed(["sea"], model="nomic-embed-text:v1")
        with pytest.raises(NoCandidate, match="lacks a feature"):
            async with a.ask("Hello?", deadline_s=20.0):
                pass
    assert (list(got[0]), served.rung) == (pytest.approx([0.6, 0.8]), "peer")


async def test_others_are_refused_until_the_owner_calls_it_contained(tmp_path):
    async with two_nodes(tmp_path, contained=False) as (a, b, fake):
        assert a.models() == ()
        with pytest.raises(ModelNotFound):
            await emitted(a)
        assert not [one for one in fake.asked if one.method == "POST"]
        assert (await emitted(b))[1][-1].reason is FinishReason.STOP


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(Reply(401), EngineFailed), (Reply(404), ModelNotFound), (Reply(429), Busy), (Reply(500), EngineFailed)],
)
async def test_what_the_server_refuses_reaches_the_asker(tmp_path, reply, kind):
    async with two_nodes(tmp_path, chat=reply) as (a, _, _fake):
        with pytest.raises(kind):
            await emitted(a)


async def test_a_server_that_goes_away_is_offered_no_more_and_again_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("meshnode.engine.upstream.engine.PAUSE_FIRST_S", 0.05)
    async with two_nodes(tmp_path, chat=Reply(500)) as (a, b, fake):
        there, fake.replies["/v1/models"] = fake.replies["/v1/models"], Reply(500)
        with pytest.raises(EngineFailed):
            await emitted(a)
        await until(lambda: not a.models())
        assert b.snapshot().engine.detail.startswith("mine: ")
        fake.replies |= {"/v1/models": there, "/v1/chat/completions": answer("back")}
        await until(a.models)
        assert (await emitted(a))[1][0] == Piece(0, (), "back")
