"""The upstream engine against servers that others wrote: llama.cpp's, through xllamacpp, and llama_cpp.server."""

import math
import struct
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import msgspec
import pytest
import trio

from meshnode.config import Upstream
from meshnode.engine.base import EngineState
from meshnode.engine.upstream.engine import UpstreamEngine
from meshnode.errors import ContextExceeded, EngineFailed
from meshnode.seams import Seams
from meshnode.serve.cloud import CloudRung
from meshnode.terms import (
    Bias,
    CloudApi,
    CloudModel,
    End,
    Feature,
    FinishReason,
    Job,
    Output,
    Piece,
    Usage,
    Wish,
)
from meshnode.testing.processes import node_process
from tests.e2e.world import surroundings
from tests.engine import upstream_servers as servers
from tests.engine.conftest import make_job
from tests.engine.upstream_servers import CONTEXT, MODEL

pytestmark = [pytest.mark.model, pytest.mark.slow]
LEAVES = 4
ALL_LEFT_WITHIN_S = 40.0  # on a machine that others use; LEAVES answers to their end would take twice that
NO_END = (Bias(0, -100.0), Bias(2, -100.0))  # the tokens that end an answer or a turn


@dataclass
class Server:
    """A server that runs, and what it is."""

    kind: str
    url: str


COMMANDS = {"xllamacpp": servers.xllamacpp, "llama_cpp.server": servers.llama_cpp_server}


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, model_file, tmp_path_factory):
    port = servers.free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    with servers.running(COMMANDS[request.param](model_file, port), port, log):
        yield Server(request.param, f"http://127.0.0.1:{port}")


@asynccontextmanager
async def living(url, **settings):
    engine = UpstreamEngine(Upstream(url=url, **settings), {}, look_every_s=1.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await become(engine, lambda: engine.state is not EngineState.LOADING)
        yield engine
        nursery.cancel_scope.cancel()


async def become(engine, holds):
    changed = trio.Event()
    engine.watch(lambda: holds() and changed.set())
    with trio.fail_after(60):
        if not holds():
            await changed.wait()


async def emitted(engine, job):
    with trio.fail_after(60):
        async with engine.run(job) as items:
            return [item async for item in items]


async def test_it_is_found_and_answers(server):
    async with living(server.url) as engine:
        (card,) = engine.cards
        assert (card.name, Feature.TOKEN_IDS in card.features) == (MODEL, False)
        if server.kind == "xllamacpp":
            assert (card.quant, card.tier, card.context) == ("Q4_1", 2, CONTEXT)
            assert Feature.EMBEDDINGS not in card.features  # it was not started for that
        *pieces, end = await emitted(engine, make_job("Say hello.", max_tokens=12))
        assert len(pieces) > 3
        assert all(isinstance(piece, Piece) and not piece.ids for piece in pieces)
        assert "".join(piece.text for piece in pieces).strip()
        assert end.reason in (FinishReason.STOP, FinishReason.LENGTH)
        if server.kind == "xllamacpp":
            assert 3 < end.usage.completion_tokens <= 12
            assert end.usage.prompt_tokens > 10
        else:
            assert end.usage == Usage()  # it does not count what it streams, and neither is it guessed


async def test_a_seed_and_a_stop_string_are_honoured(server):
    async with living(server.url) as engine:
        job = make_job("Count: one, two, three, four.", max_tokens=24, temperature=1.0, seed=7, stop=("e",))
        texts = ["".join(piece.text for piece in (await emitted(engine, job))[:-1]) for _ in range(2)]
    assert texts[0] == texts[1]
    assert "e" not in texts[0]


async def test_likelihoods_come_with_the_text(server):
    async with living(server.url) as engine:
        *pieces, _ = await emitted(engine, make_job(max_tokens=5, logprobs=True, top_logprobs=2))
    likely = [one for piece in pieces for one in piece.logprobs]
    assert "".join(piece.text for piece in pieces).encode() == b"".join(one.token for one in likely)
    assert all(one.logprob <= 0 and len(one.top) == 2 for one in likely)


async def test_leaving_frees_the_server_for_the_next(server):
    """The server runs one request at a time: were the one that was left still running, the next would wait."""
    long = make_job("Tell me all you know.", max_tokens=CONTEXT - 100, logit_bias=NO_END)
    async with living(server.url) as engine:
        with trio.fail_after(ALL_LEFT_WITHIN_S):
            for _ in range(LEAVES):
                async with engine.run(long) as items:
                    assert isinstance(await anext(items), Piece)
            assert isinstance((await emitted(engine, make_job(max_tokens=2)))[-1], End)


async def test_what_does_not_fit_is_refused(server):
    async with living(server.url) as engine:
        with pytest.raises(EngineFailed if server.kind == "llama_cpp.server" else ContextExceeded):
            await emitted(engine, make_job("word " * 2 * CONTEXT))
        assert isinstance((await emitted(engine, make_job(max_tokens=2)))[-1], End)


async def test_a_schema_is_kept(server):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    job = msgspec.structs.replace(
        make_job("Give me a number.", max_tokens=40),
        output=Output.JSON_SCHEMA,
        schema=msgspec.json.encode(schema).decode(),
    )
    async with living(server.url) as engine:
        if Feature.JSON_SCHEMA not in engine.cards[0].features:
            with pytest.raises(EngineFailed):
                await emitted(engine, job)
            return
        *pieces, _ = await emitted(engine, job)
    assert isinstance(msgspec.json.decode("".join(piece.text for piece in pieces))["n"], int)


async def test_a_server_that_is_killed_breaks_the_answer_and_is_found_again(model_file, tmp_path):
    port = servers.free_port()
    command = servers.xllamacpp(model_file, port)
    with servers.running(command, port, tmp_path / "log") as process:
        async with living(f"http://127.0.0.1:{port}") as engine:
            with pytest.raises(EngineFailed, match="broke"), trio.fail_after(60):
                async with engine.run(make_job("Tell me everything.", max_tokens=900)) as items:
                    await anext(items)
                    process.kill()
                    async for _ in items:
                        pass
            await become(engine, lambda: engine.state is EngineState.FAILED)
            assert engine.cards == ()
            process.wait()
            with servers.running(command, port, tmp_path / "log"):
                await become(engine, lambda: engine.state is EngineState.READY)
                assert isinstance((await emitted(engine, make_job(max_tokens=2)))[-1], End)


async def test_texts_are_embedded(model_file, tmp_path):
    port = servers.free_port()
    job = Job(id="e", wish=Wish(), turns=(), inputs=("a cat", "the sea", "a cat"))
    with servers.running(servers.xllamacpp(model_file, port, "embeds"), port, tmp_path / "log"):
        async with living(f"http://127.0.0.1:{port}") as engine:
            assert Feature.EMBEDDINGS in engine.cards[0].features
            *vectors, end = await emitted(engine, job)
    values = [struct.unpack(f"<{len(one.values) // 4}f", one.values) for one in vectors]
    assert [len(one) for one in values] == [576] * 3
    assert all(math.hypot(*one) == pytest.approx(1.0, abs=1e-3) for one in values)
    alike = [sum(a * b for a, b in zip(values[0], other, strict=True)) for other in values[1:]]
    assert alike[1] > 0.99 > alike[0]
    assert end.usage.prompt_tokens > 0


async def test_another_node_is_served_through_the_one_in_front(model_file, tmp_path):
    """A has no model and asks B, which runs none either, but knows a server that does."""
    port = servers.free_port()
    table = f'[[upstreams]]\nurl = "http://127.0.0.1:{port}"\nname = "mine"\ncontained = true\n'
    (tmp_path / "B").mkdir()
    (tmp_path / "B" / "config.toml").write_text(table)
    with servers.running(servers.xllamacpp(model_file, port), port, tmp_path / "log"):
        async with (
            node_process(tmp_path / "A", ("--name", "A", "--engine", "none"), env=surroundings()) as a,
            node_process(tmp_path / "B", ("--name", "B", "--engine", "none"), env=surroundings()) as b,
        ):
            with trio.fail_after(60):
                await a.mesh_address()
                await b.mesh_address()
                await b.until(lambda seen: [model for model in seen.models if model.local])
                await b.call("join", target=await a.invite(), leave=False, via=await a.mesh_address())
                await a.until(lambda seen: any(model.nodes for model in seen.models))
                body = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "Hi!"}]}
                async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
                    got = await client.post(f"{await a.api_url()}/v1/chat/completions", json=body)
    assert got.status_code == 200, got.text
    assert got.headers["x-mesh-served-by"].startswith("B#")
    answer = msgspec.json.decode(got.content)
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["usage"]["completion_tokens"] > 0


def test_the_servers_packages_stay_out_of_this_environment():
    assert servers.fetched(servers.REQUIREMENTS) not in [Path(path) for path in sys.path]
    assert "xllamacpp" not in sys.modules


async def test_as_a_commercial_api_it_is_paid_for_what_it_counts(server, tmp_path):
    async with httpx2.AsyncClient(trust_env=False) as client:
        (listed,) = (await client.get(f"{server.url}/v1/models")).json()["data"]
    model = CloudModel(id=listed["id"], names=(MODEL,), input_usd=1.0, output_usd=2.0, output=8)
    api = CloudApi(name="real", url=server.url, models=(model,), monthly_usd=1.0, privacy=("private",))
    rung = CloudRung((api,), tmp_path, Seams(), {})
    async with trio.open_nursery() as nursery:
        await nursery.start(rung.live)
        job = make_job("Say a word.", max_tokens=8)
        candidate = rung.candidates(job)[0]
        with trio.fail_after(60):
            async with rung.run(candidate, job) as items:
                *pieces, end = [item async for item in items]
        (view,) = rung.views()
        nursery.cancel_scope.cancel()
    assert any(piece.text for piece in pieces)
    assert isinstance(end, End)
    if end.usage.prompt_tokens:
        cost = end.usage.prompt_tokens * 1e-6 + end.usage.completion_tokens * 2e-6
        assert (view.spent_usd, view.assumed_usd) == (pytest.approx(cost), 0.0)
        assert 0 < end.usage.completion_tokens <= 8
    else:  # llama_cpp.server counts nothing in a stream
        assert (view.spent_usd, view.assumed_usd) == (0.0, pytest.approx(candidate.cloud.most_usd))
    assert view.spent_usd + view.assumed_usd <= candidate.cloud.most_usd
