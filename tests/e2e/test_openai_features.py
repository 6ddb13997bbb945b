"""What a chat can ask for, through OpenAI's own client at a node without a model, answered by another process."""

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import openai
import pydantic
import pytest
import trio

from meshnode.testing.local_mesh import raise_line
from meshnode.testing.processes import NodeProcess
from tests.e2e.world import HANG_S, MODEL, Line, has_model, in_background

T = TypeVar("T")
QUESTION = [{"role": "user", "content": "What is the weather in Rome?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 1, "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Report(pydantic.BaseModel):
    """What the weather is to be told in."""

    degrees: int
    words: list[str]


@asynccontextmanager
async def two_nodes(root: Path) -> AsyncIterator[NodeProcess]:
    """A node without a model, linked to one whose answers are scripted."""
    async with AsyncExitStack() as stack:
        a, _ = await raise_line(stack, root, 2, ("--engine", "scripted", "--model", MODEL))
        with trio.fail_after(HANG_S):
            await a.until(has_model)
        yield a


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """The one that is asked."""
    with in_background(lambda: two_nodes(tmp_path_factory.mktemp("pair"))) as node:
        yield node


async def talk(node: NodeProcess, conversation: Callable[[openai.OpenAI], T]) -> T:
    """Hold a conversation in a thread, as programs that use this client do."""
    url = await node.api_url()

    def hold() -> T:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=HANG_S) as client:
            return conversation(client)

    with trio.fail_after(HANG_S):
        return await trio.to_thread.run_sync(hold)


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, **fields})


async def test_a_tool_is_called_and_its_result_taken(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> tuple[Any, Any]:
        called = chat(client, tools=[WEATHER], tool_choice="required").choices[0]
        (call,) = called.message.tool_calls
        history = [
            *QUESTION,
            called.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        return called, chat(client, tools=[WEATHER], messages=history).choices[0]

    called, said = await talk(scripted, conversation)
    assert called.finish_reason == "tool_calls"
    assert called.message.content is None
    (call,) = called.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"]
    assert said.finish_reason == "stop"
    assert said.message.content


async def test_calls_are_streamed_as_the_client_puts_them_together(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> Any:
        choice = {"type": "function", "function": {"name": "weather"}}
        with client.chat.completions.stream(
            model=MODEL, messages=QUESTION, tools=[WEATHER], tool_choice=choice
        ) as stream:
            return stream.get_final_completion().choices[0]

    choice = await talk(scripted, conversation)
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert "city" in json.loads(call.function.arguments)


async def test_an_answer_is_parsed_into_the_shape_asked_for(scripted: NodeProcess) -> None:
    parsed = await talk(
        scripted,
        lambda client: client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Report),
    )
    assert isinstance(parsed.choices[0].message.parsed, Report)


async def test_choices_likelihoods_and_biases(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> tuple[Any, list[Any]]:
        wishes = {"n": 3, "seed": 1, "max_tokens": 8, "logprobs": True, "top_logprobs": 2}
        wishes["logit_bias"] = {"11": -100}
        stream = chat(client, **wishes, stream=True, stream_options={"include_usage": True})
        return chat(client, **wishes), list(stream)

    whole, chunks = await talk(scripted, conversation)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in whole.choices}) == 3
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    for choice in whole.choices:
        assert len(choice.logprobs.content) == 8
        assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)
        streamed = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.delta.content or "" for part in streamed) == choice.message.content
        entries = [entry for part in streamed if part.logprobs for entry in part.logprobs.content]
        assert [entry.token for entry in entries] == [entry.token for entry in choice.logprobs.content]


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings(scripted: NodeProcess, encoding: str) -> None:
    def conversation(client: openai.OpenAI) -> Any:
        # Without a format the client asks for base64 and unpacks it.
        more = {"encoding_format": "float"} if encoding == "float" else {}
        return client.embeddings.create(model="auto", input=["sea", "sand", "sea"], **more)

    answer = await talk(scripted, conversation)
    first, second, third = (entry.embedding for entry in answer.data)
    assert first == third != second
    assert math.hypot(*first) == pytest.approx(1, abs=1e-5)
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == 6


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "colour"}},
                }
            },
            "response_format",  # found by the worker, on the other node
        ),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"n": 9}, "n"),
    ],
)
async def test_what_is_refused_is_named(scripted: NodeProcess, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await talk(scripted, lambda client: chat(client, **fields))
    assert caught.value.param == param


async def test_each_tenant_has_a_cache_of_its_own(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> list[int]:
        found = []
        for tenant in ("ann", "ann", "bob"):
            turns = [{"role": "user", "content": "a question that nobody has asked before"}]
            answer = chat(client, messages=turns, max_tokens=1, extra_headers={"x-mesh-tenant": tenant})
            found.append(answer.usage.prompt_tokens_details.cached_tokens)
        return found

    assert await talk(scripted, conversation) == [0, 10, 0]


async def test_a_text_goes_on_whole_and_streamed_alike(scripted: NodeProcess) -> None:
    def conversation(client: openai.OpenAI) -> tuple[Any, list[str], Any]:
        asked: dict[str, Any] = {
            "model": MODEL,
            "prompt": ["The sea", "A hill"],
            "n": 2,
            "seed": 4,
            "max_tokens": 6,
            "echo": True,
        }
        whole = client.completions.create(**asked)
        texts, counted = [""] * 4, None
        for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
            counted = chunk.usage or counted
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        return whole, texts, counted

    whole, texts, counted = await talk(scripted, conversation)
    assert [choice.text for choice in whole.choices] == texts
    assert [text[:6] for text in texts] == ["The se"] * 2 + ["A hill"] * 2
    assert {choice.finish_reason for choice in whole.choices} == {"length"}
    assert (counted.prompt_tokens, counted.completion_tokens) == (4, 24)
    assert whole.usage.total_tokens == counted.total_tokens == 28


@pytest.mark.model
async def test_the_real_model_goes_on_with_a_text_two_hops_away(line: Line) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "prompt": "def add(a, b):\n    return",
        "temperature": 0,
        "max_tokens": 8,
    }

    def conversation(client: openai.OpenAI) -> tuple[Any, Any, str, Any]:
        raw = client.completions.with_raw_response.create(**asked, logprobs=2)
        chunks = list(client.completions.create(**asked, stream=True))
        text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
        return raw.headers, raw.parse(), text, chunks[-1].choices[0].finish_reason

    headers, whole, streamed, reason = await talk(line.a, conversation)
    assert [node.partition("#")[0] for node in headers["x-mesh-path"].split(",")] == ["A", "B", "C"]
    (choice,) = whole.choices
    assert choice.text.startswith(" a + b\n")
    assert streamed == choice.text
    assert choice.finish_reason == reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (9, 8)
    lists = choice.logprobs
    assert "".join(lists.tokens) == choice.text
    for at, token, likeliest in zip(lists.text_offset, lists.tokens, lists.top_logprobs, strict=True):
        assert choice.text[at:].startswith(token)
        assert max(likeliest, key=likeliest.__getitem__) == token


@pytest.mark.model
async def test_the_real_model_does_all_of_it_two_hops_away(line: Line) -> None:
    def conversation(client: openai.OpenAI) -> tuple[Any, Any, Any]:
        called = chat(client, tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=200)
        told = client.chat.completions.parse(
            model=MODEL,
            messages=QUESTION,
            response_format=Report,
            logprobs=True,
            top_logprobs=2,
            temperature=0,
        )
        vectors = client.embeddings.create(
            model=MODEL, input=["Dogs bark.", "Hounds bark.", "The tax office is closed."]
        )
        return called.choices[0], told, [entry.embedding for entry in vectors.data]

    called, told, (dogs, hounds, taxes) = await talk(line.a, conversation)
    assert called.finish_reason == "tool_calls"
    for call in called.message.tool_calls:
        assert call.function.name == "weather"
        assert 0 < len(json.loads(call.function.arguments)["city"]) <= 20
    assert isinstance(told.choices[0].message.parsed, Report)
    entries = told.choices[0].logprobs.content
    assert told.usage.completion_tokens - len(entries) in (0, 1)  # the token that ends the answer is not told
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries)
    assert math.hypot(*dogs) == pytest.approx(1, abs=1e-4)
    assert math.dist(dogs, hounds) < math.dist(dogs, taxes)
