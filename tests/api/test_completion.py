"""From JSON to a Job: what is honoured, what is refused, and under which name."""

import json

import msgspec
import pytest

from meshnode.api.completion import jobs_of, read_completion
from meshnode.errors import BadRequest
from meshnode.terms import Bias, Output, Place, Privacy, Sampling, Tool, ToolCall
from meshnode.terms.job import BIASES_MAX, SCHEMA_MAX_CHARS, TOOLS_MAX
from meshwire.limits import PROMPT_MAX
from tests.api.fakes import request_body

KEY = "0f" * 32


def read(headers=(), **fields):
    return read_completion(json.dumps(request_body(**fields)).encode(), headers)


def job(headers=(), **fields):
    return jobs_of(read(headers, **fields), "id1")[0]


def called(identifier, name):
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": "{}"}}


def function(name="f", **more):
    return {"type": "function", "function": {"name": name, **more}}


def refused(headers=(), **fields):
    with pytest.raises(BadRequest) as caught:
        job(headers, **fields)
    assert caught.value.message
    return caught.value.param


def test_sampling_is_taken_over_and_null_means_the_default():
    made = job(
        temperature=0, top_p=0.5, top_k=7, min_p=0, seed=-3, stop=["a", "b"], max_tokens=5,
        presence_penalty=-2, frequency_penalty=1.5, repeat_penalty=1.1,
    )  # fmt: skip
    assert made.sampling == Sampling(
        temperature=0, top_p=0.5, top_k=7, min_p=0, seed=-3, stop=("a", "b"), max_tokens=5,
        presence_penalty=-2, frequency_penalty=1.5, repeat_penalty=1.1,
    )  # fmt: skip
    assert made.wish.output_tokens == 5
    nulls = job(temperature=None, stop=None, max_tokens=None, n=None, tools=None, mesh=None, logprobs=None)
    assert nulls.sampling == Sampling()
    assert job(stop="x").sampling.stop == ("x",)
    assert job(max_completion_tokens=9, max_tokens=9).sampling.max_tokens == 9


def test_messages_may_be_strings_or_text_parts_of_any_role():
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": "yes", "refusal": None},
        {"role": "assistant", "content": None, "tool_calls": [called("x", "add")]},
        {"role": "tool", "content": "4", "tool_call_id": "x"},
    ]
    turns = job(messages=messages).turns
    assert [(turn.role, turn.content) for turn in turns] == [
        ("system", "be brief"),
        ("system", "ab"),
        ("user", "hi"),
        ("assistant", "yes"),
        ("assistant", ""),
        ("tool", "4"),
    ]
    assert turns[2].name == "ann"
    assert turns[4].tool_calls == (ToolCall("x", "add", "{}"),)
    assert (turns[5].tool_call_id, turns[5].name) == ("x", "add")


def test_what_asks_for_nothing_is_accepted_and_unknown_keys_are_ignored():
    job(
        n=1, tools=[], tool_choice="auto", response_format={"type": "text"}, logprobs=False, logit_bias={},
        modalities=["text"], user="ann", store=True, metadata={"a": "b"}, reasoning_effort="low", frob=[1],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 9),
        ("n", 0),
        ("tools", [{"type": "function", "function": {"name": "f"}}] * (TOOLS_MAX + 1)),
        ("tool_choice", "required"),
        ("tool_choice", "sometimes"),
        ("tool_choice", {"type": "function"}),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("functions", [{}]),
        ("function_call", {"name": "f"}),
        ("logprobs", "yes"),
        ("top_logprobs", 3),
        ("top_logprobs", 21),
        ("logit_bias", {"the": -100}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"4294967296": 1}),
        ("logit_bias", {"٣": 1}),
        ("logit_bias", {str(token): 1 for token in range(BIASES_MAX + 1)}),
        ("audio", {"voice": "alloy"}),
        ("modalities", ["text", "audio"]),
        ("stream_options", {"include_usage": True}),
        ("temperature", 2.1),
        ("temperature", "warm"),
        ("temperature", True),
        ("top_p", -0.1),
        ("presence_penalty", 3),
        ("frequency_penalty", -2.5),
        ("seed", 1.5),
        ("seed", 2**63),
        ("max_tokens", 0),
        ("max_completion_tokens", -1),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", [""]),
        ("stop", 3),
        ("model", ""),
        ("model", None),
        ("messages", []),
        ("messages", "hi"),
        ("messages", None),
        ("stream", "yes"),
        ("mesh.privacy", None),
    ],
)
def test_a_refused_field_is_named(field, value):
    if field == "mesh.privacy":
        assert refused(mesh={"privacy": "secret"}) == field
    else:
        assert refused(**{field: value}) == field


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "king", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 3}, "messages[0].content"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0].type"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [called("", "f")]}, "messages[0].tool_calls[0].id"),
        (
            {"role": "assistant", "tool_calls": [called("x", "a b")]},
            "messages[0].tool_calls[0].function.name",
        ),
        (
            {"role": "assistant", "tool_calls": [{**called("x", "f"), "type": "custom"}]},
            "messages[0].tool_calls[0].type",
        ),
        ({"role": "user", "content": "x", "tool_calls": [called("x", "f")]}, "messages[0].tool_calls"),
        ({"role": "user", "content": "x", "tool_call_id": "x"}, "messages[0].tool_call_id"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[0].function_call"),
        ({"role": "assistant", "content": "x", "audio": {"id": "1"}}, "messages[0].audio"),
    ],
)
def test_a_refused_message_is_named_by_its_place(message, param):
    assert refused(messages=[message]) == param


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_field_is_named(name):
    body = request_body()
    del body[name]
    with pytest.raises(BadRequest) as caught:
        read_completion(json.dumps(body).encode())
    assert caught.value.param == name


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "\xff", "messages": []}',
        b'{"temperature": NaN}',
        b"[" * 50000,
        b'{"model": "a", "messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * 50000,
    ],
)
def test_what_is_no_json_object_is_refused_as_the_body(body):
    with pytest.raises(BadRequest) as caught:
        read_completion(body)
    assert caught.value.param == "body"


def test_the_mesh_is_asked_in_the_body_or_in_headers():
    asked = {
        "privacy": "local",
        "route": "mesh",
        "min_tier": 4,
        "deadline_ms": 900,
        "residency": ["eu", "home"],
        "signed_by": [KEY, KEY],
    }
    headers = [
        ("X-Mesh-Privacy", "local"),
        ("x-mesh-route", "mesh"),
        ("x-mesh-min-tier", "4"),
        ("x-mesh-deadline-ms", "900"),
        ("x-mesh-residency", "eu, home"),
        ("x-mesh-signed-by", f"{KEY}, {KEY}"),
        ("x-other", "y"),
    ]
    for made in (job(mesh=asked), job(headers), job(headers, mesh=asked)):
        assert made.wish.privacy is Privacy.LOCAL
        assert made.wish.place is Place.MESH
        assert made.wish.min_tier == 4
        assert made.deadline_ms == 900
        assert made.wish.residency == ("eu", "home")
        assert made.wish.signed_by == (KEY, KEY)


@pytest.mark.parametrize(
    ("mesh", "param"),
    [
        ({"signed_by": ["ab"]}, "mesh.signed_by[0]"),
        ({"tenant": ""}, "mesh.tenant"),
        ({"privacy": "secret"}, "mesh.privacy"),
        ({"route": "moon"}, "mesh.route"),
        ({"min_tier": 7}, "mesh.min_tier"),
        ({"deadline_ms": 0}, "mesh.deadline_ms"),
        ({"max_prize": 3}, "mesh.max_prize"),
        ({"residency": "eu"}, "mesh.residency"),
        ("local", "mesh"),
    ],
)
def test_a_limit_that_is_not_understood_is_refused(mesh, param):
    assert refused(mesh=mesh) == param


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-mesh-privacy", "secret"),
        ("x-mesh-min-tier", "high"),
        ("x-mesh-max-prize", "3"),
        ("x-mesh-route", ""),
    ],
)
def test_a_header_that_is_not_understood_is_refused(name, value):
    assert refused([(name, value)]) == name


def test_body_and_header_may_not_contradict_each_other():
    assert refused([("x-mesh-privacy", "public")], mesh={"privacy": "local"}) == "mesh.privacy"


def test_contradicting_limits_and_overlong_prompts_are_refused():
    assert refused(max_tokens=5, max_completion_tokens=6) == "max_tokens"
    assert refused(messages=[{"role": "user", "content": "é" * (PROMPT_MAX // 2 + 1)}]) == "messages"


def test_every_hint_lists_the_choices():
    with pytest.raises(BadRequest, match="public, private, sensitive, local"):
        read(mesh={"privacy": "secret"})
    with pytest.raises(BadRequest, match="privacy, route, min_tier"):
        read(mesh={"frob": 1})


def test_tools_and_the_choice_among_them():
    tools = [
        function("add", description="adds", parameters={"type": "object"}, strict=True),
        function("stop"),
    ]
    made = job(tools=tools, tool_choice={"type": "function", "function": {"name": "stop"}})
    assert made.tools == (Tool("add", "adds", '{"type":"object"}'), Tool("stop"))
    assert (made.tool_choice, made.parallel_tool_calls) == ("function:stop", True)
    assert job(tools=tools).tool_choice == "auto"
    assert job(tools=tools, tool_choice="required").tool_choice == "required"
    assert job(tools=tools, tool_choice="none", parallel_tool_calls=False).parallel_tool_calls is False


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{}], "tools[0].type"),
        ([{"type": "web_search"}], "tools[0].type"),
        ([{"type": "function"}], "tools[0].type"),
        ([function("a b")], "tools[0].function.name"),
        ([function(), function()], "tools[1].function.name"),
        ([function(parameters="{}")], "tools[0].function.parameters"),
        ([function(parameters={"x": "y" * SCHEMA_MAX_CHARS})], "tools[0].function.parameters"),
    ],
)
def test_a_refused_tool_is_named_by_its_place(tools, param):
    assert refused(tools=tools) == param


def schema_format(**more):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, **more}}


def test_the_shape_of_the_answer():
    made = job(response_format=schema_format(strict=True, description="x"))
    assert (made.output, made.schema) == (Output.JSON_SCHEMA, '{"type":"object"}')
    assert job(response_format={"type": "json_object"}).output is Output.JSON_OBJECT
    assert job(response_format={"type": "text"}).output is Output.TEXT


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({}, "response_format.type"),
        ({"type": "yaml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        (schema_format(name="a b"), "response_format.json_schema.name"),
        (schema_format(schema="{}"), "response_format.json_schema.schema"),
        (schema_format(schema={"x": "y" * SCHEMA_MAX_CHARS}), "response_format.json_schema.schema"),
    ],
)
def test_a_refused_format_is_named_by_its_part(wanted, param):
    assert refused(response_format=wanted) == param


def test_likelihoods_and_biases():
    sampling = job(logprobs=True, top_logprobs=20, logit_bias={"7": -100, "4294967295": 1.5}).sampling
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 20)
    assert sampling.logit_bias == (Bias(7, -100), Bias(2**32 - 1, 1.5))
    assert job(top_logprobs=0).sampling.top_logprobs == 0


def test_every_choice_has_a_seed_and_an_id_of_its_own():
    jobs = jobs_of(read(n=3, seed=5), "id1")
    assert [made.id for made in jobs] == ["id1", "id1-1", "id1-2"]
    assert [made.sampling.seed for made in jobs] == [5, 6, 7]
    assert len({made.turns for made in jobs}) == 1
    assert {made.sampling.seed for made in jobs_of(read(n=3), "id1")} == {None}
    last = [made.sampling.seed for made in jobs_of(read(n=3, seed=2**63 - 2), "id1")]
    assert len(set(last)) == 3
    assert max(last) == 2**63 - 1


def test_a_tenant_is_named_to_the_node_alone():
    for asked in (read(mesh={"tenant": "ann"}), read([("x-mesh-tenant", "ann")])):
        assert asked.tenant == "ann"
        assert jobs_of(asked, "id1", b"tag")[0].tenant_tag == b"tag"
        assert b"ann" not in msgspec.msgpack.encode(jobs_of(asked, "id1", b"tag")[0])
    assert read().tenant == ""


def test_tools_and_calls_count_as_prompt():
    long = "x" * (PROMPT_MAX // 2)
    messages = [{"role": "assistant", "tool_calls": [{**called("x", "f")}] * 2}]
    for call in messages[0]["tool_calls"]:
        call["function"] = {"name": "f", "arguments": long + "x"}
    assert refused(messages=messages) == "messages"
    assert refused(tools=[function(name, description=long) for name in ("f", "g")]) == "messages"
