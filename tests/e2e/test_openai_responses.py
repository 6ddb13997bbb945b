"""The Responses API through OpenAI's own client, at a node without a model, answered by another process."""

import gc
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import trio

from meshnode.testing.processes import NodeProcess
from tests.e2e.test_openai_features import Report, talk, two_nodes
from tests.e2e.world import HANG_S, MODEL, Line, in_background

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 1, "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
QUESTION = "What is the weather in Rome?"


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """The one that is asked."""
    with in_background(lambda: two_nodes(tmp_path_factory.mktemp("pair"))) as node:
        yield node


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    return client.responses.create(**{"model": MODEL, "input": QUESTION, **fields})


async def test_a_tool_is_called_and_its_result_taken(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> tuple[Any, Any]:
        called = ask(client, tools=[WEATHER], tool_choice="required")
        (call,) = called.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        history = [{"role": "user", "content": QUESTION}, *called.output, result]
        return call, ask(client, tools=[WEATHER], input=history, instructions="Be brief.")

    call, said = await talk(scripted, conversation)
    assert (call.type, call.name) == ("function_call", "weather")
    assert json.loads(call.arguments)["city"]
    assert (said.status, said.store) == ("completed", False)
    assert said.output_text
    assert said.usage.total_tokens == said.usage.input_tokens + said.usage.output_tokens


async def test_a_stream_is_what_the_client_puts_together(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> list[Any]:
        asked = {"model": MODEL, "input": QUESTION, "max_output_tokens": 16}
        with client.responses.stream(**asked, extra_headers={"x-mesh-privacy": "public"}) as stream:
            return list(stream)

    events = await talk(scripted, conversation)
    final = events[-1].response
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) == 16
    assert "".join(deltas) == final.output_text
    assert (final.status, final.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_calls_and_shapes_are_parsed(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> tuple[Any, Any]:
        tools = {"model": MODEL, "input": QUESTION, "tools": [WEATHER], "tool_choice": "required"}
        with client.responses.stream(**tools) as stream:
            called = stream.get_final_response()
        return called, client.responses.parse(model=MODEL, input=QUESTION, text_format=Report)

    called, told = await talk(scripted, conversation)
    assert called.output[0].parsed_arguments.keys() == {"city"}
    assert isinstance(told.output_parsed, Report)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_asynchronous_client_on_trio(scripted: NodeProcess) -> None:
    """The client leaves its generators to the collector when it has read [DONE], so that runs here."""
    url = await scripted.api_url()
    with trio.fail_after(HANG_S):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            whole = await client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16)
            stream = await client.responses.create(
                model=MODEL, input=QUESTION, max_output_tokens=16, stream=True
            )
            kinds = [event.type async for event in stream]
            del stream
            gc.collect()
    assert whole.output_text
    assert (kinds[0], kinds[-1]) == ("response.created", "response.incomplete")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
            "input[0].content[0].type",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "colour"}}}},
            "text.format",  # found by the worker, on the other node
        ),
    ],
)
async def test_what_is_refused_is_named(scripted: NodeProcess, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await talk(scripted, lambda client: ask(client, **fields))
    assert caught.value.param == param


async def test_nothing_is_stored(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> None:
        client.responses.retrieve(ask(client, store=True, max_output_tokens=16).id)

    with pytest.raises(openai.NotFoundError):
        await talk(scripted, conversation)


@pytest.mark.model
async def test_the_real_model_answers_and_calls_two_hops_away(line: Line) -> None:
    def conversation(client: openai.OpenAI) -> tuple[Any, Any]:
        called = ask(client, tools=[WEATHER], tool_choice="required", temperature=0, max_output_tokens=200)
        with client.responses.stream(
            model=MODEL, input=QUESTION, temperature=0, max_output_tokens=16
        ) as stream:
            *_, last = stream
        return called, last.response

    called, said = await talk(line.a, conversation)
    for call in called.output:
        assert (call.type, call.name) == ("function_call", "weather")
        assert 0 < len(json.loads(call.arguments)["city"]) <= 20
    assert said.output_text
    assert 0 < said.usage.output_tokens <= 16
