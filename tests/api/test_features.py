"""Tools, schemas, log-probabilities and choices in a chat's answer, in virtual time."""

import json
import math

import pytest
import trio
from trio.testing import MockClock

from meshnode.api.app import build
from meshnode.errors import BadRequest, Interrupted
from meshnode.terms import End, FinishReason, Likelihood, Piece, TokenLogprob, ToolCall, Usage
from tests.api.fakes import END, FakeDoors, chat, piece, request_body, scripted_doors

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {
                "type": "object",
                "properties": {"at": {"type": "string", "minLength": 1}},
                "required": ["at"],
            },
        },
    }
]
CALLS = (ToolCall("call_1", "look", '{"at":"sea"}'), ToolCall("call_2", "listen", "{}"))
CALLED = End(FinishReason.TOOL_CALLS, Usage(7, 3, 2))


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def answered(doors, **fields):
    exchange = chat(request_body(**fields))
    await exchange.run(build(doors))
    return exchange


async def whole(doors, **fields):
    exchange = await answered(doors, **fields)
    assert exchange.status == 200, exchange.text
    return json.loads(exchange.text)


async def test_calls_without_text_have_no_content():
    body = await whole(FakeDoors([Piece(0, (1, 2), "", CALLS), CALLED]), tools=TOOLS)
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sea"}'}},
            {"id": "call_2", "type": "function", "function": {"name": "listen", "arguments": "{}"}},
        ],
    }


async def test_text_beside_calls_is_kept_and_calls_are_counted_through_the_stream():
    steps = [
        piece(0, "Let me see."),
        *(Piece(1 + n, (1,), "", (call,)) for n, call in enumerate(CALLS)),
        CALLED,
    ]
    assert (await whole(FakeDoors(steps)))["choices"][0]["message"]["content"] == "Let me see."
    *chunks, done = (await answered(FakeDoors(steps), stream=True)).events
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert done == "[DONE]"
    assert deltas[1] == {"content": "Let me see."}
    assert [delta["tool_calls"] for delta in deltas[2:4]] == [
        [
            {
                "index": 0,
                "id": "call_1",
                "type": "function",
                "function": {"name": "look", "arguments": '{"at":"sea"}'},
            }
        ],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "listen", "arguments": "{}"}}],
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["tool_calls"]


async def test_a_tool_that_must_be_called_is_called_with_what_its_schema_allows():
    async with scripted_doors() as doors:
        for choice in ("required", {"type": "function", "function": {"name": "look"}}):
            body = await whole(doors, tools=TOOLS, tool_choice=choice)
            (call,) = body["choices"][0]["message"]["tool_calls"]
            assert call["function"]["name"] == "look"
            assert json.loads(call["function"]["arguments"]) == {"at": "x"}
        body = await whole(doors, tools=TOOLS)
        assert "tool_calls" not in body["choices"][0]["message"]


async def test_json_that_was_asked_for_comes_and_what_the_worker_refuses_is_named():
    schema = {"type": "object", "properties": {"n": {"minimum": 3, "type": "integer"}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    async with scripted_doors() as doors:
        for format_, expected in ((wanted, {"n": 3}), ({"type": "json_object"}, {})):
            (choice,) = (await whole(doors, response_format=format_))["choices"]
            assert json.loads(choice["message"]["content"]) == expected
            assert choice["finish_reason"] == "stop"
        schema["properties"]["n"] = {"type": "colour"}
        refused = await answered(doors, response_format=wanted)
    assert refused.status == 400
    assert json.loads(refused.text)["error"]["param"] == "response_format"
    deep = FakeDoors(refusal=BadRequest("no such keyword", param="response_format"))
    assert json.loads((await answered(deep)).text)["error"]["param"] == "response_format"


async def test_log_probabilities_are_numbers_and_bytes():
    half, never = TokenLogprob(b"\xc3", -0.5, (Likelihood(b"\xc3", -0.5), Likelihood(b"a", -math.inf))), -9999
    doors = FakeDoors(
        [Piece(0, (1,), "", (), (half,)), Piece(1, (2,), "é", (), (TokenLogprob(b"\xa9", -1),)), END]
    )
    (choice,) = (await whole(doors, logprobs=True, top_logprobs=2))["choices"]
    assert choice["logprobs"] == {
        "content": [
            {
                "token": "�",
                "logprob": -0.5,
                "bytes": [0xC3],
                "top_logprobs": [
                    {"token": "�", "logprob": -0.5, "bytes": [0xC3]},
                    {"token": "a", "logprob": never, "bytes": [97]},
                ],
            },
            {"token": "�", "logprob": -1, "bytes": [0xA9], "top_logprobs": []},
        ],
        "refusal": None,
    }
    *chunks, _ = (await answered(doors, logprobs=True, stream=True)).events
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [part and len(part["content"]) for part in parts] == [None, 1, 1, None]


async def test_one_log_probability_for_each_token():
    async with scripted_doors() as doors:
        body = await whole(doors, logprobs=True, top_logprobs=3, max_tokens=5, stop="never")
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == body["usage"]["completion_tokens"] == 5
    assert "".join(entry["token"] for entry in content) == body["choices"][0]["message"]["content"]
    for entry in content:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)


async def test_choices_of_one_prompt_run_side_by_side_and_the_prompt_counts_once():
    async with scripted_doors() as doors:
        alone = await whole(doors, seed=4, max_tokens=6)
        began = trio.current_time()
        body = await whole(doors, seed=4, n=3, max_tokens=6)
        took_s = trio.current_time() - began
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert texts[0] == alone["choices"][0]["message"]["content"]
    assert len(set(texts)) == 3
    assert took_s < 2 * 6 / 100
    assert body["usage"]["completion_tokens"] == 18
    assert body["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]


async def test_a_prompt_that_one_choice_computed_for_all_is_not_told_as_cached():
    class Shared(FakeDoors):
        def ask(self, job):
            end = End(FinishReason.STOP, Usage(9, 1, 0 if job.id == "id1-1" else 8))
            return FakeDoors([piece(0, "x"), end]).ask(job)

    usage = (await whole(Shared(), n=3))["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (9, 3)


async def test_streamed_choices_each_open_and_close_and_the_stream_ends_once():
    async with scripted_doors() as doors:
        exchange = await answered(
            doors, seed=4, n=3, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
        plain = await whole(doors, seed=4, n=3, max_tokens=4)
    *chunks, counted, done = exchange.events
    assert done == "[DONE]"
    assert exchange.text.count("[DONE]") == 1
    assert counted["usage"]["completion_tokens"] == 12
    for index, choice in enumerate(plain["choices"]):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert [part["finish_reason"] for part in own] == [None] * (len(own) - 1) + ["length"]
        assert "".join(part["delta"].get("content", "") for part in own) == choice["message"]["content"]


class OneFails(FakeDoors):
    """The second choice breaks off after the first has ended."""

    def ask(self, job):
        second = FakeDoors([piece(0, "x"), 2.0, Interrupted("the peer left")])
        return (FakeDoors([piece(0, "x"), 1.0, END]) if job.id == "id1" else second).ask(job)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_that_fails_ends_all_with_one_error(stream):
    exchange = await answered(OneFails(), n=2, stream=stream)
    last = exchange.events[-1] if stream else json.loads(exchange.text)
    assert last["error"]["code"] == "interrupted"
    assert exchange.text.count('"error"') == 1
    assert "[DONE]" not in exchange.text


async def test_an_error_ends_the_choices_that_still_run():
    class OneIsSlow(FakeDoors):
        def ask(self, job):
            fails = FakeDoors([piece(0, "x"), 2.0, Interrupted("the peer left")])
            return (super() if job.id == "id1" else fails).ask(job)

    doors, began = OneIsSlow([piece(0, "x"), 1000.0, END]), trio.current_time()
    exchange = await answered(doors, n=2)
    assert exchange.status == 503
    assert trio.current_time() - began < 10
    assert (doors.running, doors.cancelled) == (0, 1)


async def test_a_client_that_leaves_cancels_every_choice():
    doors = FakeDoors([piece(0, "x"), 1000.0])
    exchange = chat(request_body(n=4))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.run, build(doors))
        await trio.sleep(1)
        assert doors.running == 4
        exchange.leave()
    assert (doors.running, doors.cancelled) == (0, 4)


async def test_a_prompt_seen_before_is_cached_for_its_tenant_alone():
    cached = []
    async with scripted_doors() as doors:
        for mesh in (
            {"tenant": "ann"},
            {"tenant": "ann"},
            {"tenant": "bob"},
            {"privacy": "public", "tenant": "ann"},
            {},
        ):
            body = await whole(doors, messages=[{"role": "user", "content": "a b c d e"}], mesh=mesh)
            cached.append(body["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached == [0, 8, 0, 0, 0]
    assert len({job.tenant_tag for job in doors.jobs}) == 3
    assert not any(b"ann" in job.tenant_tag for job in doors.jobs)
