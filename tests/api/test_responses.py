"""Responses against a scripted node, in virtual time: the object, the order of its events, and every end."""

import json

import pytest
import trio
from trio.testing import MockClock

from meshnode.api.app import build
from meshnode.api.responses import endpoint
from meshnode.api.responses.written import BLANK_MAX
from meshnode.api.tools import SCHEMA_DEPTH_MAX
from meshnode.errors import BadRequest, Busy, Interrupted, MeshError
from meshnode.terms import End, FinishReason, Piece, Progress, TokenLogprob, ToolCall, Usage
from tests.api.fakes import END, HELLO, FakeDoors, chat, piece, scripted_doors

LOOK = {
    "type": "function",
    "name": "look",
    "parameters": {
        "type": "object",
        "properties": {"at": {"type": "string", "minLength": 1}},
        "required": ["at"],
    },
}
CALLS = (ToolCall("call_1", "look", '{"at":"sea"}'), ToolCall("call_2", "listen", "{}"))
CALLED = End(FinishReason.TOOL_CALLS, Usage(7, 3, 2))
CUT = End(FinishReason.LENGTH, Usage(7, 3, 2))
MESSAGE_BEGINS = ["response.output_item.added", "response.content_part.added"]
MESSAGE_ENDS = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
CALL_EVENTS = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]
BEGINS = ["response.created", "response.in_progress"]
DELTA = "response.output_text.delta"


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def answered(doors, closing=None, **fields):
    body = {"model": "smollm2:135m", "input": "hi", **fields}
    exchange = chat(body, path="/v1/responses", closing=closing)
    await exchange.run(build(doors))
    return exchange


async def whole(doors, **fields):
    exchange = await answered(doors, **fields)
    assert exchange.status == 200, exchange.text
    return json.loads(exchange.text)


def events_of(exchange):
    """The events, each checked: its name is its type, and its number its place."""
    *blocks, done, rest = exchange.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    events = []
    for number, block in enumerate(blocks):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        assert events[-1]["sequence_number"] == number
    return events


async def streamed(doors, **fields):
    return events_of(await answered(doors, stream=True, **fields))


def kinds(events):
    return [event["type"] for event in events]


async def test_a_whole_response_tells_what_was_asked_and_what_came_of_it():
    exchange = await answered(
        FakeDoors(), instructions="Be brief.", metadata={"a": "b"}, user="u", store=True
    )
    assert exchange.status == 200
    assert exchange.headers["x-mesh-rung"] == "peer"
    text = {"type": "output_text", "text": "Hello ☺", "annotations": [], "logprobs": []}
    assert json.loads(exchange.text) == {
        "id": "resp_id1",
        "object": "response",
        "created_at": 1_700_000_000,
        "completed_at": 1_700_000_000,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be brief.",
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": "smollm2:135m",
        "output": [
            {
                "id": "msg_id1_0",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [text],
            }
        ],
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": None,
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 0.8,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 0.95,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 10,
        },
        "user": "u",
        "metadata": {"a": "b"},
    }


async def test_a_stream_has_every_event_in_order_and_ends_with_what_is_sent_whole():
    events = await streamed(FakeDoors())
    assert kinds(events) == [*BEGINS, *MESSAGE_BEGINS, DELTA, DELTA, *MESSAGE_ENDS, "response.completed"]
    assert [event["delta"] for event in events if event["type"] == DELTA] == ["Hel", "lo ☺"]
    assert {event.get("item_id", "msg_id1_0") for event in events} == {"msg_id1_0"}
    opened, closed = events[0]["response"], events[-1]["response"]
    assert (opened["status"], opened["output"], opened["usage"]) == ("in_progress", [], None)
    assert events[-2]["item"] == closed["output"][0]
    assert events[-3]["part"] == closed["output"][0]["content"][0]
    assert events[-4]["text"] == "Hello ☺"
    assert closed == await whole(FakeDoors())


async def test_text_and_calls_are_items_of_their_own():
    steps = [
        piece(0, "Let me see."),
        *(Piece(1 + n, (1,), "", (call,)) for n, call in enumerate(CALLS)),
        CALLED,
    ]
    events = await streamed(FakeDoors(steps), tools=[LOOK])
    assert kinds(events) == [
        *BEGINS,
        *MESSAGE_BEGINS,
        DELTA,
        *MESSAGE_ENDS,
        *CALL_EVENTS * 2,
        "response.completed",
    ]
    output = events[-1]["response"]["output"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == output
    assert [event["output_index"] for event in events if "output_index" in event] == [0] * 6 + [1] * 4 + [
        2
    ] * 4
    assert output[1:] == [
        {
            "id": f"fc_id1_{at}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        for at, call in enumerate(CALLS, 1)
    ]
    assert (await whole(FakeDoors(steps), tools=[LOOK]))["output"] == output
    added, delta, done = events[8:11]
    assert (added["item"]["arguments"], added["item"]["status"]) == ("", "in_progress")
    assert delta["delta"] == done["arguments"] == '{"at":"sea"}'


async def test_white_space_between_calls_is_no_message_and_before_a_text_part_of_it():
    blank, text = piece(1, "\n"), piece(2, "See.")
    between = [Piece(0, (1,), "\n", CALLS[:1]), blank, Piece(2, (1,), "", CALLS[1:]), blank, CALLED]
    assert kinds(await streamed(FakeDoors(between))) == [*BEGINS, *CALL_EVENTS * 2, "response.completed"]
    after = await whole(FakeDoors([Piece(0, (1,), "\n", CALLS[:1]), text, CALLED]))
    assert after["output"][1]["content"][0]["text"] == "See."
    for steps, said in (
        ([blank, text, END], "\nSee."),
        ([blank, END], "\n"),
        ([blank] * 99 + [END], "\n" * 99),
    ):
        events = await streamed(FakeDoors(steps))
        assert "".join(event["delta"] for event in events if event["type"] == DELTA) == said
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == said
    assert kinds(events).count(DELTA) == 99 - BLANK_MAX  # the first tells of all that waited


async def test_a_tool_that_must_be_called_is_called_and_its_result_taken():
    async with scripted_doors() as doors:
        first = await whole(doors, tools=[LOOK], tool_choice={"type": "function", "name": "look"})
        (call,) = first["output"]
        assert json.loads(call["arguments"]) == {"at": "x"}
        assert first["tools"] == [{**LOOK, "description": None, "strict": True}]
        assert first["tool_choice"] == {"type": "function", "name": "look"}
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sea"}
        second = await whole(doors, tools=[LOOK], input=[{"role": "user", "content": "hi"}, call, result])
    assert second["output"][0]["content"][0]["text"]
    assert doors.jobs[-1].turns[-1].name == "look"


async def test_json_that_was_asked_for_comes_and_what_the_worker_refuses_is_named_as_here():
    schema = {"type": "object", "properties": {"n": {"minimum": 3, "type": "integer"}}, "required": ["n"]}
    wanted = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    async with scripted_doors() as doors:
        body = await whole(doors, text=wanted)
        assert json.loads(body["output"][0]["content"][0]["text"]) == {"n": 3}
        assert body["text"]["format"] == {**wanted["format"], "description": "", "strict": True}
        schema["properties"]["n"] = {"type": "colour"}
        refused = await answered(doors, text=wanted)
    assert refused.status == 400
    assert json.loads(refused.text)["error"]["param"] == "text.format"
    shared = BadRequest("too long", param="messages")
    assert json.loads((await answered(FakeDoors(refusal=shared))).text)["error"]["param"] == "input"
    assert shared.param == "messages"  # others may be told of the same error


async def test_an_answer_that_is_cut_is_incomplete():
    steps = [piece(0, "Hel"), CUT]
    events = await streamed(FakeDoors(steps), max_output_tokens=3)
    closed = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert (closed["status"], closed["completed_at"]) == ("incomplete", None)
    assert closed["incomplete_details"] == {"reason": "max_output_tokens"}
    assert closed["output"][0]["status"] == "incomplete"
    assert closed["usage"]["output_tokens"] == 3
    assert await whole(FakeDoors(steps), max_output_tokens=3) == closed


async def test_an_answer_without_anything_is_an_empty_message():
    events = await streamed(FakeDoors([END]))
    assert kinds(events) == [*BEGINS, *MESSAGE_BEGINS, *MESSAGE_ENDS, "response.completed"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


async def test_log_probabilities_wait_for_their_text_and_those_of_calls_are_left_out():
    one, two, three = (TokenLogprob(token, -1) for token in (b"\xc3", b"\xa9", b"{"))
    steps = [Piece(0, (1,), "", (), (one,)), Piece(1, (2,), "é", (), (two,)), END]
    events = await streamed(FakeDoors(steps), include=["message.output_text.logprobs"])
    (delta,) = (event for event in events if event["type"] == DELTA)
    assert [entry["bytes"] for entry in delta["logprobs"]] == [[0xC3], [0xA9]]
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == delta["logprobs"]
    steps = [Piece(0, (1,), "a", (), (one,)), Piece(1, (2,), "", (), (two,)), END]
    whole_text = (await whole(FakeDoors(steps), top_logprobs=1))["output"][0]["content"][0]
    assert [entry["bytes"] for entry in whole_text["logprobs"]] == [[0xC3], [0xA9]]
    steps = [Piece(0, (1,), "", (), (three,)), Piece(1, (2,), "", CALLS[:1], (three,)), CALLED]
    events = await streamed(FakeDoors(steps), tools=[LOOK], top_logprobs=1)
    assert kinds(events) == [*BEGINS, *CALL_EVENTS, "response.completed"]
    steps[2:] = [Piece(2, (3,), "!", (), (one,)), CALLED]
    events = await streamed(FakeDoors(steps), tools=[LOOK], top_logprobs=1)
    (delta,) = (event for event in events if event["type"] == DELTA)
    assert [entry["bytes"] for entry in delta["logprobs"]] == [[0xC3]]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Interrupted("It broke off."), "server_error", "interrupted"),
        (Busy("Full.", retry_after_s=1), "rate_limit_exceeded", "busy"),
        (BadRequest("No.", param="messages"), "invalid_prompt", "invalid_request"),
        (RuntimeError("a fault of ours"), "server_error", "internal_error"),
    ],
)
async def test_a_stream_that_fails_says_so_twice_and_keeps_what_was_said(error, code, told):
    events = await streamed(FakeDoors([piece(0, "Hel"), error]))
    assert kinds(events) == [*BEGINS, *MESSAGE_BEGINS, DELTA, "error", "response.failed"]
    error, failed = events[-2], events[-1]["response"]
    assert error["code"] == error["error"]["code"] == told
    assert error["message"] == error["error"]["message"] == failed["error"]["message"]
    assert error["error"].keys() == {"message", "type", "param", "code"}
    assert error["param"] == ("input" if told == "invalid_request" else None)
    assert (failed["status"], failed["error"]["code"], failed["usage"]) == ("failed", code, None)
    assert failed["output"][0]["status"] == "incomplete"
    assert failed["output"][0]["content"][0]["text"] == "Hel"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_fails_before_it_begins_is_a_status(stream):
    for doors in (FakeDoors(refusal=Busy("Full.", retry_after_s=1)), FakeDoors([Busy("Full.")])):
        exchange = await answered(doors, stream=stream)
        assert exchange.status == 429
        assert json.loads(exchange.text)["error"]["code"] == "busy"


async def test_a_whole_response_that_breaks_off_is_a_status():
    exchange = await answered(FakeDoors([piece(0, "Hel"), MeshError("no")]))
    assert exchange.status == 500


@pytest.mark.parametrize("stream", [True, False])
async def test_there_is_a_most_that_is_held_of_one_answer(monkeypatch, stream):
    monkeypatch.setattr(endpoint, "RESPONSE_MAX", 10)
    exchange = await answered(FakeDoors([piece(n, "12345") for n in range(9)] + [END]), stream=stream)
    if stream:
        assert kinds(events_of(exchange))[-2:] == ["error", "response.failed"]
    else:
        assert exchange.status == 503
    assert "longer than 10" in exchange.text


async def test_a_shutdown_fails_a_stream_in_its_own_shape():
    closing = trio.Event()
    doors = FakeDoors([piece(0, "Hel"), 100.0, END])
    async with trio.open_nursery() as nursery:
        exchange = chat({"model": "m", "input": "hi", "stream": True}, path="/v1/responses", closing=closing)
        nursery.start_soon(exchange.run, build(doors))
        await trio.sleep(1)
        closing.set()
    assert kinds(events_of(exchange))[-2:] == ["error", "response.failed"]
    assert (doors.running, doors.cancelled) == (0, 1)


async def test_a_client_that_leaves_ends_the_run():
    doors = FakeDoors([piece(0, "Hel"), 100.0, END])
    async with trio.open_nursery() as nursery:
        exchange = chat({"model": "m", "input": "hi", "stream": True}, path="/v1/responses")
        nursery.start_soon(exchange.run, build(doors))
        await trio.sleep(1)
        exchange.leave()
        with trio.fail_after(1):
            await doors.left.wait()


async def test_progress_begins_the_stream_and_silence_is_filled():
    exchange = await answered(FakeDoors([Progress(1, 2), 12.0, *HELLO]), stream=True)
    comments = exchange.text.count(": keep-alive\n\n")
    assert comments == 2
    assert exchange.text.index("response.created") < exchange.text.index(": keep-alive")


async def test_whoever_asks_why_is_told():
    exchange = await answered(FakeDoors(), mesh={"explain": True})
    assert json.loads(exchange.headers["x-mesh-decision"])["candidates"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("depth", "status"), [(SCHEMA_DEPTH_MAX - 1, 200), (SCHEMA_DEPTH_MAX, 400), (600, 400)]
)
async def test_a_schema_that_is_repeated_is_not_too_deep_for_that(stream, depth, status):
    """The response has it inside other objects: the deepest that can be read could not be written."""
    schema = '{"a":' * depth + "{}" + "}" * depth
    tool = f'{{"type": "function", "name": "f", "parameters": {schema}}}'
    body = f'{{"model": "m", "input": "hi", "stream": {str(stream).lower()}, "tools": [{tool}]}}'
    exchange = chat(body.encode(), path="/v1/responses")
    await exchange.run(build(FakeDoors()))
    assert exchange.status == status
    if status == 400:
        assert json.loads(exchange.text)["error"]["param"] == "tools[0].parameters"
