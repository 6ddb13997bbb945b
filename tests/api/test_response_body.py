"""From the JSON of a response's request to a Job: what is honoured, what is refused, and under which name."""

import json

import pytest

from meshnode.api.responses.body import METADATA_MAX, read_response_body, response_job
from meshnode.errors import BadRequest, ContextExceeded
from meshnode.terms import Output, Place, Sampling, Tool, ToolCall, Turn
from meshnode.terms.job import TOOLS_MAX
from meshwire.limits import PROMPT_MAX

LOOK = {"type": "function", "name": "look", "description": "Look.", "parameters": {"type": "object"}}
LISTEN = {"type": "function", "name": "listen"}
USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "sea"}


def said(text):
    return {"type": "output_text", "text": text, "annotations": []}


def job(headers=(), **fields):
    body = json.dumps({"model": "smollm2:135m", "input": "hi", **fields}).encode()
    return response_job(read_response_body(body, headers), "id1", b"tag")


def refused(**fields):
    with pytest.raises(BadRequest) as caught:
        job(**fields)
    assert caught.value.message
    return caught.value.param


def test_a_text_is_what_the_user_says_and_instructions_open_the_conversation():
    asked = job(input="hi", instructions="Be brief.")
    assert asked.turns == (Turn(role="system", content="Be brief."), Turn(role="user", content="hi"))
    assert (asked.wish.model, asked.tenant_tag, asked.sampling) == ("smollm2:135m", b"tag", Sampling())
    assert job(model="auto").wish.model == ""


def test_items_become_turns_and_calls_that_follow_each_other_are_one():
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be "}]},
        USER,
        {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": "?"},
        {
            "type": "message",
            "role": "assistant",
            "phase": "commentary",
            "content": [
                {"type": "output_text", "text": "Let me ", "annotations": []},
                {"type": "output_text", "text": "see."},
            ],
        },
        CALL,
        {**CALL, "call_id": "c2", "name": "listen"},
        RESULT,
        {**RESULT, "call_id": "c2", "output": [{"type": "input_text", "text": "waves"}]},
        {**CALL, "call_id": "c3"},
        {**RESULT, "call_id": "c3"},
    ]
    first, second, third = (
        ToolCall(f"c{n}", name, "{}") for n, name in enumerate(("look", "listen", "look"), 1)
    )
    assert job(input=items).turns == (
        Turn(role="system", content="Be "),
        Turn(role="user", content="hi"),
        Turn(role="assistant", content="Let me see.", tool_calls=(first, second)),
        Turn(role="tool", content="sea", name="look", tool_call_id="c1"),
        Turn(role="tool", content="waves", name="listen", tool_call_id="c2"),
        Turn(role="assistant", content="", tool_calls=(third,)),
        Turn(role="tool", content="sea", name="look", tool_call_id="c3"),
    )


def test_how_tokens_are_drawn():
    asked = job(
        temperature=0.5,
        top_p=0.5,
        seed=3,
        stop="x",
        max_output_tokens=9,
        presence_penalty=1,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
    )
    assert asked.sampling == Sampling(
        temperature=0.5,
        top_p=0.5,
        seed=3,
        stop=("x",),
        max_tokens=9,
        presence_penalty=1,
        logprobs=True,
        top_logprobs=2,
    )
    assert asked.wish.output_tokens == 9
    assert not job(include=["reasoning.encrypted_content"]).sampling.logprobs
    assert job(top_logprobs=2).sampling.logprobs


def test_tools_and_the_choice_among_them():
    asked = job(tools=[LOOK, LISTEN], tool_choice="required", parallel_tool_calls=False)
    assert asked.tools == (Tool("look", "Look.", '{"type":"object"}'), Tool("listen"))
    assert (asked.tool_choice, asked.parallel_tool_calls) == ("required", False)
    named = job(tools=[LOOK, LISTEN], tool_choice={"type": "function", "name": "listen"})
    assert (named.tool_choice, len(named.tools)) == ("function:listen", 2)
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "listen"}]}
    asked = job(tools=[LOOK, LISTEN], tool_choice=allowed)
    assert (asked.tool_choice, asked.tools) == ("required", (Tool("listen"),))


def test_the_shape_of_the_text():
    assert job(text={}).output is Output.TEXT
    assert job(text={"format": {"type": "json_object"}}).output is Output.JSON_OBJECT
    asked = job(
        text={"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}}
    )
    assert (asked.output, asked.schema) == (Output.JSON_SCHEMA, '{"type":"object"}')


def test_what_only_a_mesh_can_be_asked_for():
    asked = job(headers=[("x-mesh-route", "local")], mesh={"deadline_ms": 5})
    assert (asked.wish.place, asked.deadline_ms) == (Place.LOCAL, 5)


@pytest.mark.parametrize("store", [True, False, None])
def test_what_says_nothing_about_the_answer_is_taken(store):
    known = {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}}
    assert job(store=store, truncation="disabled", background=False, service_tier="auto", **known) == job()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "c"}}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"metadata": {str(n): "" for n in range(METADATA_MAX + 1)}}, "metadata"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "custom", "name": ""}]}, "tools[0].type"),
        ({"tools": [{**LOOK, "strict": 1}]}, "tools[0].strict"),
        ({"tools": [LOOK, LOOK]}, "tools[1].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}, "tools": [LOOK]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": [LOOK]}, "tool_choice"),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]}},
            "tool_choice.tools[0]",
        ),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}, "tools": [LOOK]}, "tool_choice.tools"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"role": "developer", "content": "a"}]}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "computer_call", "call_id": "", "output": {}}]}, "input[0].type"),
        ({"input": [{"type": 3, "role": "user"}]}, "input[0].type"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [USER, {**CALL, "call_id": None}]}, "input[1].call_id"),
        ({"input": [USER, {**CALL, "name": None}]}, "input[1].name"),
        ({"input": [USER, {**CALL, "name": "a b"}]}, "input[1].name"),
        ({"input": [USER, {**CALL, "arguments": None}]}, "input[1].arguments"),
        ({"input": [USER, CALL, {**RESULT, "call_id": None}]}, "input[2].call_id"),
        ({"input": [USER, CALL, {**RESULT, "output": None}]}, "input[2].output"),
        ({"input": [USER, CALL, {**RESULT, "output": [{"type": "input_image"}]}]}, "input[2].output[0].type"),
        ({"input": [USER, *[CALL] * (TOOLS_MAX + 1)]}, f"input[{TOOLS_MAX + 1}]"),
    ],
)
def test_what_is_refused_is_named(fields, param):
    assert refused(**fields) == param


def test_a_prompt_that_no_model_takes_is_refused_at_the_door():
    with pytest.raises(ContextExceeded) as caught:
        job(input="a" * (PROMPT_MAX + 1))
    assert caught.value.param == "input"
