"""Chat completions against a scripted node, in virtual time."""

import json

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from meshnode.api.app import build
from meshnode.api.completion import jobs_of, read_completion
from meshnode.api.exchange import DECISION_BYTES_MAX
from meshnode.errors import Busy, Interrupted, MeshError, ModelNotFound, NoCandidate
from meshnode.terms import CacheMode, End, Progress
from tests.api.fakes import ANSWER, END, HELLO, FakeDoors, chat, piece, request_body


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def answered(doors, body=None, **options):
    exchange = chat(body, **options)
    await exchange.run(build(doors))
    return exchange


async def test_a_whole_answer_has_openais_shape_and_says_who_served_it():
    exchange = await answered(FakeDoors())
    assert exchange.status == 200
    assert json.loads(exchange.text) == {
        "id": "chatcmpl-id1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "smollm2:135m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello ☺", "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }
    ours = {name: value for name, value in exchange.headers.items() if name.startswith("x-")}
    assert ours == {
        "x-request-id": "id1",
        "x-mesh-served-by": "b?ro??x: y",
        "x-mesh-path": "desk,attic",
        "x-mesh-model": ANSWER.model,
        "x-mesh-tier": "2",
        "x-mesh-rung": "peer",
        "x-mesh-trust": "trusted",
        "x-mesh-attempts": "1",
        "x-mesh-cost-usd": "0.000000000",
    }


async def test_whoever_asks_why_is_told_in_a_header_of_bounded_length():
    exchange = await answered(FakeDoors(), request_body(mesh={"explain": True}))
    seen = json.loads(exchange.headers["x-mesh-decision"])
    assert [one["place"] for one in seen["candidates"]] == [1]
    doors = FakeDoors()
    doors.candidates = 1000
    long = (await answered(doors, request_body(mesh={"explain": True}))).headers["x-mesh-decision"]
    assert 0 < len(json.loads(long)["candidates"]) < 1000
    assert len(long) <= DECISION_BYTES_MAX


async def test_a_stream_opens_with_the_role_and_has_exactly_one_terminal_chunk():
    exchange = await answered(FakeDoors(), request_body(stream=True))
    *chunks, done = exchange.events
    assert exchange.status == 200
    assert exchange.headers["content-type"].startswith("text/event-stream")
    assert done == "[DONE]"
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("chatcmpl-id1", 1_700_000_000, "smollm2:135m")
    }
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo ☺"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_and_only_if_asked_for():
    body = request_body(stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = (await answered(FakeDoors(), body)).events
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 10


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ModelNotFound("no such model", param="model"), 404, "invalid_request_error"),
        (Busy("all full", retry_after_s=1.2), 429, "rate_limit_error"),
        (NoCandidate("privacy forbids"), 503, "service_unavailable_error"),
        (ExceptionGroup("nursery", [Busy("all full")]), 429, "rate_limit_error"),
    ],
)
async def test_an_error_before_the_first_piece_is_a_status_and_not_a_stream(stream, error, status, kind):
    for doors in (FakeDoors(refusal=error), FakeDoors([error])):
        exchange = await answered(doors, request_body(stream=stream))
        assert exchange.status == status
        body = json.loads(exchange.text)
        assert sorted(body["error"]) == ["code", "message", "param", "type"]
        assert body["error"]["type"] == kind
        assert exchange.headers["x-request-id"] == "id1"


async def test_busy_says_when_to_retry_and_policy_says_not_to():
    busy = await answered(FakeDoors(refusal=Busy("full", retry_after_s=1.2)))
    assert busy.headers["retry-after"] == "2"
    policy = await answered(FakeDoors(refusal=NoCandidate("every node was ruled out")))
    assert policy.headers["x-should-retry"] == "false"


async def test_a_failure_in_mid_stream_is_the_one_last_event():
    doors = FakeDoors([piece(0, "Hel"), Interrupted("the peer left")])
    exchange = await answered(doors, request_body(stream=True))
    assert exchange.status == 200
    assert exchange.events[-1]["error"]["code"] == "interrupted"
    assert "[DONE]" not in exchange.text
    assert all(not event["choices"][0]["finish_reason"] for event in exchange.events[:-1])


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_an_end_is_truncation(stream):
    exchange = await answered(FakeDoors([piece(0, "Hel")]), request_body(stream=stream))
    last = exchange.events[-1] if stream else json.loads(exchange.text)
    assert last["error"]["code"] == "interrupted"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_nobody_foresaw_is_one_plain_error(stream):
    exchange = await answered(FakeDoors([piece(0, "x"), KeyError("secret")]), request_body(stream=stream))
    last = exchange.events[-1] if stream else json.loads(exchange.text)
    assert last["error"]["code"] == "internal_error"
    assert "secret" not in exchange.text


async def test_keep_alive_comments_fill_silences_once_the_stream_has_begun():
    doors = FakeDoors([Progress(1, 9), 12.0, piece(0, "a"), 4.0, Progress(2, 9), 4.0, END])
    exchange = await answered(doors, request_body(stream=True))
    times = [at for at, data in exchange.chunks if data == b": keep-alive\n\n"]
    start = exchange.chunks[0][0]
    assert [at - start for at in times] == pytest.approx([5, 10, 17])


async def test_nothing_is_committed_before_the_first_sign_of_life():
    exchange = chat(request_body(stream=True))
    doors = FakeDoors([60.0, Interrupted("too late")], place_s=60)
    await exchange.run(build(doors))
    assert exchange.status == 503
    assert len(exchange.chunks) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("steps", [[1000.0], [piece(0, "a"), 1000.0]])
async def test_a_client_that_leaves_cancels_the_run_at_once(stream, steps):
    doors = FakeDoors(steps)
    exchange = chat(request_body(stream=stream))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, build(doors))
        await trio.sleep(1)
        assert doors.running == 1
        exchange.leave()
        await wait_all_tasks_blocked()
        assert doors.running == 0
        assert exchange.ended.is_set()
    assert doors.cancelled == 1
    assert trio.current_time() < 10_000


async def test_a_client_that_leaves_while_waiting_for_a_place_is_forgotten():
    doors = FakeDoors(place_s=1000)
    exchange = chat()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, build(doors))
        await trio.sleep(1)
        exchange.leave()
        await exchange.ended.wait()
    assert exchange.chunks == []


async def test_a_run_that_ends_well_is_left_in_peace_and_not_cancelled():
    doors = FakeDoors()
    await answered(doors)
    await answered(doors, request_body(stream=True))
    assert doors.cancelled == 0


@pytest.mark.parametrize(("steps", "status"), [([1000.0], 503), ([piece(0, "a"), 1000.0], 200)])
async def test_shutdown_ends_streams_with_an_error(steps, status):
    closing = trio.Event()
    doors = FakeDoors(steps)
    exchange = chat(request_body(stream=True), closing=closing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, build(doors))
        await trio.sleep(1)
        closing.set()
        await exchange.ended.wait()
    assert exchange.status == status
    assert '"code":"interrupted"' in exchange.text
    assert "shutting down" in exchange.text
    assert doors.running == 0


async def test_a_slow_reader_holds_up_the_run_and_nothing_is_heaped():
    emitted = []

    async def note():
        emitted.append(trio.current_time())

    doors = FakeDoors([step for index in range(10) for step in (note, piece(index, "x"))] + [END])
    exchange = chat(request_body(stream=True))
    exchange.read_slowly_s = 1.0
    await exchange.run(build(doors))
    assert emitted[-1] - emitted[0] > 6
    assert exchange.events[-1] == "[DONE]"


async def test_an_answer_without_bounds_is_cut_with_an_error():
    many = [piece(index, "x" * 1_000_000) for index in range(6)]
    exchange = await answered(FakeDoors([*many, END]))
    assert exchange.status == 503


async def test_the_job_carries_what_was_asked():
    doors = FakeDoors()
    await answered(doors, request_body(model="auto", temperature=0), headers={"x-mesh-privacy": "public"})
    (job,) = doors.jobs
    assert (job.id, job.wish.model, job.sampling.temperature) == ("id1", "", 0)
    assert job.wish.privacy == "public"


async def test_several_at_once_do_not_mix():
    app = build(FakeDoors([piece(0, "a"), 1.0, *HELLO[1:]]))
    exchanges = [chat(request_body(stream=True)) for _ in range(5)]
    async with trio.open_nursery() as nursery:
        for exchange in exchanges:
            nursery.start_soon(exchange.run, app)
    for exchange in exchanges:
        assert len({event["id"] for event in exchange.events[:-1]}) == 1
        assert len(exchange.events) == 5
    assert len({exchange.events[0]["id"] for exchange in exchanges}) == 5


def test_every_code_of_the_tree_has_a_status():
    from meshnode.api.errors import TABLE
    from meshnode.errors import every_error

    own = {code for code, kind in every_error().items() if kind.__module__ == "meshnode.errors"}
    assert own == set(TABLE)


def test_an_unknown_code_keeps_its_name():
    from meshnode.api.errors import body_of, shape_of

    error = MeshError("from the future")
    error.code = "quota_of_2031"
    assert shape_of(error).status == 500
    assert json.loads(body_of(error))["error"]["code"] == "quota_of_2031"


async def test_a_kept_answer_is_labelled_with_how_it_was_found_and_how_like_the_questions_are(monkeypatch):
    plain = await answered(FakeDoors())
    assert "x-mesh-cache" not in plain.headers
    kept = msgspec.structs.replace(ANSWER, cache="semantic", similarity=0.98765)
    monkeypatch.setattr("tests.api.fakes.ANSWER", kept)
    labelled = await answered(FakeDoors())
    assert (labelled.headers["x-mesh-cache"], labelled.headers["x-mesh-similarity"]) == ("semantic", "0.988")


async def test_the_cache_is_wished_for_in_the_body_or_a_header_and_nonsense_is_named():
    doors = FakeDoors()
    await answered(doors, request_body(mesh={"cache": "semantic"}))
    await answered(doors, headers={"x-mesh-cache": "off"})
    assert [job.wish.cache for job in doors.jobs] == [CacheMode.SEMANTIC, CacheMode.OFF]
    refused = await answered(doors, request_body(mesh={"cache": "always"}))
    assert refused.status == 400
    assert json.loads(refused.text)["error"]["param"] == "mesh.cache"
    assert "off, exact, semantic" in json.loads(refused.text)["error"]["message"]


def test_choices_that_are_drawn_anew_are_not_the_first_one_once_more():
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": "hi"}],
        "n": 2,
        "mesh": {"cache": "exact"},
    }
    first, second = jobs_of(read_completion(json.dumps(body).encode()), "req-1")
    assert (first.wish.cache, second.wish.cache) == (CacheMode.EXACT, CacheMode.OFF)
    seeded = jobs_of(read_completion(json.dumps(body | {"seed": 7}).encode()), "req-1")
    assert {job.wish.cache for job in seeded} == {CacheMode.EXACT}


def costing(cost_nusd: int) -> End:
    return End(END.reason, msgspec.structs.replace(END.usage, cost_nusd=cost_nusd))


async def test_a_whole_answer_says_what_it_cost_and_a_stream_does_not_know_yet():
    steps = (piece(0, "Hi"), costing(1_500))
    whole = await answered(FakeDoors(steps))
    assert whole.headers["x-mesh-cost-usd"] == "0.000001500"
    several = await answered(FakeDoors(steps), request_body(n=3))
    assert several.headers["x-mesh-cost-usd"] == "0.000004500"
    streamed = await answered(FakeDoors(steps), request_body(stream=True))
    assert "x-mesh-cost-usd" not in streamed.headers


async def test_ceilings_are_wishes_and_nonsense_is_refused():
    doors = FakeDoors()
    await answered(doors, request_body(mesh={"max_price": 0.01, "max_joules": 250}))
    wish = doors.jobs[0].wish
    assert (wish.max_price_usd, wish.max_joules) == (0.01, 250.0)
    refused = await answered(doors, request_body(mesh={"max_joules": -1}))
    assert refused.status == 400
    assert json.loads(refused.text)["error"]["param"] == "mesh.max_joules"
