"""The upstream engine against a server that is scripted: what it offers, what it streams, how it fails."""

import gc
import os
import struct
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from meshnode.config import Upstream
from meshnode.engine.base import EngineState
from meshnode.engine.upstream import engine as upstream_engine
from meshnode.engine.upstream import events, key, runs
from meshnode.engine.upstream.engine import UpstreamEngine
from meshnode.errors import (
    BadRequest,
    Busy,
    ConfigInvalid,
    ContextExceeded,
    EngineFailed,
    ModelNotFound,
)
from meshnode.terms import End, Feature, FinishReason, Job, Piece, ToolCall, Turn, Usage, Vector, Wish
from tests.engine.conftest import make_job
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

NAME = "qwen2.5:7b"
KEY = "sk-very-secret"


@asynccontextmanager
async def living(fake, env=None, *, silence_s=10.0, look_every_s=30.0, **settings):
    """An engine in front of the server, once it knows what that offers, or that it cannot."""
    engine = UpstreamEngine(
        Upstream(url=fake.url, **settings), env or {}, silence_s=silence_s, look_every_s=look_every_s
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.serve)
        await become(engine, lambda: engine.state is not EngineState.LOADING)
        yield engine
        nursery.cancel_scope.cancel()


async def become(engine, holds):
    changed = trio.Event()
    engine.watch(lambda: holds() and changed.set())
    with trio.fail_after(20):
        if not holds():
            await changed.wait()


async def emitted(engine, job):
    with trio.fail_after(20):
        async with engine.run(job) as items:
            return [item async for item in items]


async def failure(engine, job):
    with trio.fail_after(20), pytest.raises(Exception) as caught:
        await emitted(engine, job)
    return caught.value


async def test_models_are_found_and_answers_stream():
    async with fake_upstream() as fake, living(fake) as engine:
        (card,) = engine.cards
        assert (card.name, card.family, card.size, card.context) == (NAME, "qwen2.5", "7b", 4096)
        assert Feature.TOKEN_IDS not in card.features
        assert await emitted(engine, make_job()) == [
            Piece(0, (), "Hello"),
            Piece(0, (), " there"),
            End(FinishReason.STOP, Usage(5, 2, 0)),
        ]


async def test_neither_who_asks_nor_the_request_id_is_told_to_the_server():
    job = msgspec.structs.replace(make_job(name="req-77aa77aa"), tenant_tag=b"tenant-88bb")
    async with fake_upstream() as fake, living(fake) as engine:
        async with engine.run(job, b"scope-99cc") as items:
            assert [item async for item in items]
        (asked,) = [asked for asked in fake.asked if asked.method == "POST"]
    told = msgspec.json.encode([asked.headers, asked.body, asked.path]).decode()
    assert not [secret for secret in ("77aa77aa", "88bb", "99cc") if secret in told]
    assert asked.body["model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert asked.body["stream_options"] == {"include_usage": True}


async def test_a_caller_that_leaves_closes_the_connection_at_once():
    reply = streamed(delta(content="a"), delta(content="b"), hang=True)
    async with fake_upstream(chat=reply) as fake, living(fake, slots=1) as engine:
        for _ in range(3):  # with one slot, a connection that stays would keep the next one out
            with trio.fail_after(5):
                async with engine.run(make_job()) as items:
                    assert await anext(items) == Piece(0, (), "a")
        with trio.fail_after(5):
            while fake.open:
                await trio.sleep(0.01)
        assert fake.left == 3
        assert engine.load.in_flight == 0
        gc.collect()  # a reader left open would complain here, and warnings are errors


async def test_cancelling_while_nothing_comes_closes_the_connection_too():
    async with fake_upstream(chat=streamed(hang=True)) as fake, living(fake) as engine:
        with trio.move_on_after(0.3) as left:
            await emitted(engine, make_job())
        assert left.cancelled_caught
        with trio.fail_after(5):
            while fake.open:
                await trio.sleep(0.01)
        assert fake.left == 1


FAULTS = {
    "401": (Reply(401, [b'{"error":{"message":"bad key sk-very-secret"}}']), EngineFailed, "API key"),
    "403": (Reply(403, [b"{}"]), EngineFailed, "403"),
    "404": (Reply(404, [b"{}"]), ModelNotFound, "does not have"),
    "400": (Reply(400, [b'{"error":{"message":"no such field sk-very-secret"}}']), BadRequest, "no such"),
    "422": (Reply(422, [b'{"detail":"bad input"}']), BadRequest, "bad input"),
    "413": (Reply(413, [b"too big"]), ContextExceeded, "too big"),
    "context": (
        Reply(400, [b'{"error":{"message":"9 > 8","type":"exceed_context_size_error"}}']),
        ContextExceeded,
        "9 > 8",
    ),
    "500": (Reply(500, [b"Traceback"]), EngineFailed, "500"),
    "a redirect": (Reply(302, [], headers={"location": "http://127.0.0.1:1/"}), EngineFailed, "302"),
    "no stream": (Reply(200, [b'{"choices":[]}']), EngineFailed, "did not stream"),
    "garbage": (streamed(b"data: <html>\n\n"), EngineFailed, "no completion"),
    "another shape": (streamed(b'data: {"choices":"x"}\n\n'), EngineFailed, "no completion"),
    "an error inside": (
        streamed(event({"error": {"message": "context length", "code": 400}})),
        ContextExceeded,
        "context length",
    ),
    "cut": (streamed(delta(content="a"), cut=True), EngineFailed, "broke"),
    "an end without an end": (streamed(delta(content="a"), event(b"[DONE]")), EngineFailed, "broke off"),
    "nothing": (streamed(), EngineFailed, "broke off"),
    "silence": (streamed(delta(content="a"), hang=True), EngineFailed, "nothing for too long"),
    "an endless event": (
        streamed(*[b"data: " + b"x" * 65536] * (events.EVENT_BYTES_MAX // 65536 + 1), hang=True),
        EngineFailed,
        "more than",
    ),
    "a call that is none": (
        streamed(delta(tool_calls=[{"index": 0, "function": {"name": "no good"}}]), ended()),
        EngineFailed,
        "none",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_what_goes_wrong_is_one_clear_error(name):
    reply, kind, words = FAULTS[name]
    async with (
        fake_upstream(chat=reply) as fake,
        living(fake, {"K": KEY}, api_key_env="K", silence_s=0.5) as engine,
    ):
        error = await failure(engine, make_job())
        assert type(error) is kind
        assert words in str(error)
        assert KEY not in str(error)
        assert fake.asked[-1].headers["authorization"] == f"Bearer {KEY}"
        gc.collect()


@pytest.mark.parametrize(
    ("header", "seconds"), [("17", 17.0), ("", 1.0), ("Wed, 21 Oct", 1.0), ("9e9", 3600.0)]
)
async def test_a_busy_server_says_when_to_come_back(header, seconds):
    reply = Reply(429, [b"{}"], headers={"retry-after": header} if header else {})
    async with fake_upstream(chat=reply) as fake, living(fake) as engine:
        error = await failure(engine, make_job())
    assert type(error) is Busy
    assert error.retry_after_s == seconds


async def test_a_break_after_the_end_is_no_break():
    async with (
        fake_upstream(chat=streamed(delta(content="all"), ended("length"), cut=True)) as fake,
        living(fake) as engine,
    ):
        assert await emitted(engine, make_job()) == [
            Piece(0, (), "all"),
            End(FinishReason.LENGTH, Usage()),  # what was not counted is not made up
        ]


async def test_calls_come_whole():
    parts = [
        delta(
            content=None, tool_calls=[{"index": 0, "id": "a", "function": {"name": "sky", "arguments": ""}}]
        ),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"at":'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"night"}'}}]),
        delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "sea", "arguments": "{}"}}]),
        ended("tool_calls"),
    ]
    async with fake_upstream(chat=streamed(*parts)) as fake, living(fake) as engine:
        got = await emitted(engine, make_job())
    assert [call for item in got[:-1] for call in item.calls] == [
        ToolCall("a", "sky", '{"at":"night"}'),
        ToolCall("b", "sea", "{}"),
    ]
    assert got[-1].reason is FinishReason.TOOL_CALLS


async def test_embeddings_come_in_order_and_of_length_one():
    body = {
        "data": [{"index": 1, "embedding": [0.0, 2.0]}, {"index": 0, "embedding": [3.0, 4.0]}],
        "usage": {"prompt_tokens": 7},
    }
    job = Job(id="e", wish=Wish(), turns=(), inputs=("a", "b"))
    async with (
        fake_upstream(embeddings=Reply(parts=[msgspec.json.encode(body)])) as fake,
        living(fake) as engine,
    ):
        first, second, end = await emitted(engine, job)
    assert struct.unpack("<2f", first.values) == pytest.approx((0.6, 0.8))
    assert second == Vector(1, struct.pack("<2f", 0.0, 1.0))
    assert end == End(FinishReason.STOP, Usage(7, 0, 0))


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [0.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.7e308, 1.7e308]}],
        "none",
    ],
)
async def test_embeddings_that_are_none_fail(data):
    job = Job(id="e", wish=Wish(), turns=(), inputs=("a", "b"))
    reply = Reply(parts=[msgspec.json.encode({"data": data})])
    async with fake_upstream(embeddings=reply) as fake, living(fake) as engine:
        assert type(await failure(engine, job)) is EngineFailed


async def test_a_resumed_answer_is_refused():
    async with fake_upstream() as fake, living(fake) as engine:
        error = await failure(engine, msgspec.structs.replace(make_job(), resume=(1, 2)))
    assert type(error) is EngineFailed
    assert not [asked for asked in fake.asked if asked.method == "POST"]


async def test_a_model_that_is_not_offered_is_not_found():
    job = msgspec.structs.replace(make_job(), wish=Wish(model="other:1b"))
    async with fake_upstream() as fake, living(fake) as engine:
        assert type(await failure(engine, job)) is ModelNotFound


async def test_slots_bound_what_runs_and_the_queue_what_waits(monkeypatch):
    monkeypatch.setattr(upstream_engine, "QUEUE_RUNS", 1)
    async with (
        fake_upstream(chat=streamed(delta(content="a"), hang=True)) as fake,
        living(fake, slots=2) as engine,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(emitted, engine, make_job())
        with trio.fail_after(5):
            while fake.open < 2:
                await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert (fake.open, engine.load.in_flight, engine.load.slots) == (2, 3, 2)
        assert engine.load.queued_decode > 0
        assert type(await failure(engine, make_job())) is Busy
        nursery.cancel_scope.cancel()


async def test_a_caller_that_takes_nothing_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(runs, "WAITING_MAX", 10)
    async with (
        fake_upstream(chat=streamed(*[delta(content="x")] * 100, hang=True)) as fake,
        living(fake) as engine,
        engine.run(make_job()) as items,
    ):
        with trio.fail_after(5):
            while engine.load.queued_decode:
                await trio.sleep(0.01)
        with pytest.raises(EngineFailed, match="faster than"):
            assert len([item async for item in items]) == 10


async def test_an_answer_without_end_is_cut(monkeypatch):
    monkeypatch.setattr("meshnode.engine.upstream.answer.RESPONSE_MAX", 100)
    parts = [delta(content="x" * 30)] * 5
    async with fake_upstream(chat=streamed(*parts, hang=True)) as fake, living(fake) as engine:
        assert "longer than" in str(await failure(engine, make_job()))


async def test_a_server_that_is_away_is_told_of_and_found_again(monkeypatch):
    monkeypatch.setattr(upstream_engine, "PAUSE_FIRST_S", 0.05)
    async with fake_upstream() as fake, living(fake, look_every_s=0.1) as engine:
        there = fake.replies["/v1/models"]
        fake.replies["/v1/models"] = Reply(503)
        await become(engine, lambda: engine.state is EngineState.FAILED)
        assert engine.cards == ()
        assert "503" in engine.detail
        assert type(await failure(engine, make_job())) is EngineFailed
        fake.replies["/v1/models"] = there
        await become(engine, lambda: engine.state is EngineState.READY)
        assert (engine.cards[0].name, engine.detail) == (NAME, "")


async def test_a_run_that_fails_makes_it_look_at_once(monkeypatch):
    monkeypatch.setattr(upstream_engine, "PAUSE_FIRST_S", 0.02)
    async with fake_upstream(chat=Reply(500)) as fake, living(fake, look_every_s=1000) as engine:
        fake.replies["/v1/models"] = Reply(500)
        await failure(engine, make_job())
        await become(engine, lambda: engine.state is EngineState.FAILED)


BAD_LISTINGS = {
    "refused": (Reply(401, [b"sk-very-secret"]), "API key"),
    "not JSON": (Reply(parts=[b"<html>"]), "not JSON"),
    "another shape": (Reply(parts=[b'{"models":[]}']), "no list of models"),
    "none": (Reply(parts=[b'{"data":[]}']), "offers no model"),
    "too much": (Reply(parts=[b" " * 65536] * 65), "more than"),
    "silent": (Reply(hang=True), "nothing for too long"),
}


@pytest.mark.parametrize("name", BAD_LISTINGS)
async def test_a_server_that_cannot_be_used_says_why(name):
    reply, words = BAD_LISTINGS[name]
    async with fake_upstream(models=reply) as fake, living(fake, silence_s=0.3) as engine:
        assert (engine.state, engine.cards) == (EngineState.FAILED, ())
        assert words in engine.detail
        assert KEY not in engine.detail


async def test_a_server_that_is_not_there_says_so():
    async with fake_upstream() as fake:
        url = fake.url
    async with living(fake) as engine:
        assert engine.state is EngineState.FAILED
        assert engine.detail == f"{url.removeprefix('http://')}: The upstream server is not running."
        error = await failure(engine, make_job())
        assert (type(error), error.message) == (EngineFailed, "The upstream server is not running.")


async def test_only_allowed_models_are_offered():
    listing = {"data": [{"id": name} for name in ("a:1b", "b:2b", "c:3b")]}
    reply = Reply(parts=[msgspec.json.encode(listing)])
    async with (
        fake_upstream(models=reply) as fake,
        living(fake, models=("b:2b",), context=1234, quant="Q8_0") as engine,
    ):
        (card,) = engine.cards
        assert (card.name, card.context, card.quant, card.tier) == ("b:2b", 1234, "Q8_0", 6)
        named = msgspec.structs.replace(make_job(), wish=Wish(model=f"sha256:{card.digest.hex()}"))
        await emitted(engine, named)
        assert fake.chat()["model"] == "b:2b"


async def test_ollama_tells_more_in_its_own_way():
    listing = {
        "data": [{"id": "llama3.2:3b", "owned_by": "library"}, {"id": "nomic:v1", "owned_by": "library"}]
    }
    shown = {
        "details": {"quantization_level": "Q4_K_M"},
        "model_info": {"llama.context_length": 131072},
        "capabilities": ["completion", "tools"],
        "parameters": "stop  x\nnum_ctx    8192",
    }
    running = {"models": [{"name": "nomic:v1", "context_length": 2048}]}
    async with fake_upstream(models=Reply(parts=[msgspec.json.encode(listing)])) as fake:
        fake.replies["/api/show"] = Reply(parts=[msgspec.json.encode(shown)])
        fake.replies["/api/ps"] = Reply(parts=[msgspec.json.encode(running)])
        async with living(fake) as engine:
            llama, nomic = engine.cards
    assert (llama.name, llama.context, llama.quant) == ("llama3.2:3b", 8192, "Q4_K_M")
    assert llama.features == (Feature.TOOLS, Feature.JSON_SCHEMA)
    assert nomic.context == 2048


async def test_speeds_are_those_of_real_answers_run_alone():
    timed = {"timings": {"prompt_per_second": 900.0, "predicted_per_second": 40.0}}
    reply = streamed(delta(content="a"), ended(), counted(100, 20, **timed), event(b"[DONE]"))
    async with fake_upstream(chat=reply) as fake, living(fake) as engine:
        assert (engine.cards[0].prompt_tps, engine.cards[0].generate_tps) == (0.0, 0.0)
        changes = []
        engine.watch(lambda: changes.append(engine.cards))
        for _ in range(3):
            await emitted(engine, make_job())
        assert (engine.cards[0].prompt_tps, engine.cards[0].generate_tps) == (900.0, 40.0)
        assert len(changes) == 1  # what has hardly moved is not told again


async def test_scopes_are_kept_apart_as_far_as_the_server_can():
    async def told(engine, fake, scope):
        async with engine.run(make_job(), scope) as items:
            assert [item async for item in items]
        return {key: fake.chat().get(key) for key in ("cache_salt", "cache_prompt")}

    def owned(by):
        return Reply(parts=[msgspec.json.encode({"data": [{"id": "m", "owned_by": by, "max_model_len": 9}]})])

    async with fake_upstream(models=owned("vllm")) as fake, living(fake) as engine:
        salts = [(await told(engine, fake, scope))["cache_salt"] for scope in (b"a", b"b", b"a", b"")]
        assert salts[0] == salts[2]
        assert len({*salts}) == 3
    async with fake_upstream(models=owned("llamacpp")) as fake, living(fake) as engine:
        shares = [(await told(engine, fake, scope))["cache_prompt"] for scope in (b"a", b"a", b"b", b"a")]
        assert shares == [True, True, False, False]  # b's prompt may still be in there
    async with fake_upstream() as fake, living(fake) as engine:
        assert await told(engine, fake, b"a") == {"cache_salt": None, "cache_prompt": None}


def test_a_posture_is_the_owners_word():
    there = "http://127.0.0.1:9"
    assert not UpstreamEngine(Upstream(url=there), {}).posture.contained
    contained = UpstreamEngine(Upstream(url=there, contained=True), {}).posture
    assert (contained.kind, contained.contained) == ("upstream", True)


def test_a_key_comes_from_the_environment_or_from_a_closed_file(tmp_path):
    file = tmp_path / "key"
    file.write_text("sk-file\n")
    file.chmod(0o600)
    there = "http://127.0.0.1:9"
    assert key.read_key(Upstream(url=there), {"K": KEY}) == ""
    assert key.read_key(Upstream(url=there, api_key_env="K"), {"K": KEY}) == KEY
    assert key.read_key(Upstream(url=there, api_key_file=str(file)), {}) == "sk-file"
    file.chmod(0o640)
    with pytest.raises(ConfigInvalid, match="open to others"):
        key.read_key(Upstream(url=there, api_key_file=str(file)), {})
    for env, where in (({}, {}), ({}, {"K": "sk\nx"}), ({}, {"K": "é"})):
        with pytest.raises(ConfigInvalid) as caught:
            key.read_key(Upstream(url=there, api_key_env="K"), {**env, **where})
        assert "sk" not in str(caught.value)
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        key.read_key(Upstream(url=there, api_key_file=str(tmp_path / "absent")), {})


async def test_proxies_of_the_environment_see_nothing(monkeypatch):
    monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setitem(os.environ, "ALL_PROXY", "http://127.0.0.1:1")
    async with fake_upstream() as fake, living(fake) as engine:
        assert engine.state is EngineState.READY
        assert await emitted(engine, make_job())


async def test_a_path_in_the_url_is_kept():
    async with fake_upstream() as fake:
        fake.replies["/openai/models"] = fake.replies["/v1/models"]
        fake.replies["/openai/chat/completions"] = answer("x")
        fake.url += "/openai/"
        async with living(fake) as engine:
            assert (await emitted(engine, make_job()))[0] == Piece(0, (), "x")


async def test_a_bare_text_is_neither_offered_nor_put_as_a_chat():
    """A node asks only for what a card says; one that does not is refused before anything is sent."""
    job = msgspec.structs.replace(make_job(), turns=(Turn(role="text", content="Once"),))
    async with fake_upstream() as fake, living(fake) as engine:
        assert Feature.TEXT not in engine.cards[0].features
        assert isinstance(await failure(engine, job), BadRequest)
        assert [asked for asked in fake.asked if asked.method == "POST"] == []
