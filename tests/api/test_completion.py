"""From JSON to a Job: what is honoured, what is refused, and under which name."""

import json

import pytest

from meshnode.api.completion import job_of, read_completion
from meshnode.errors import BadRequest
from meshnode.terms import Place, Privacy, Sampling
from meshwire.limits import PROMPT_MAX
from tests.api.fakes import request_body


def read(headers=(), **fields):
    return read_completion(json.dumps(request_body(**fields)).encode(), headers)


def job(headers=(), **fields):
    return job_of(read(headers, **fields), "id1")


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
        {"role": "tool", "content": "4", "tool_call_id": "x"},
    ]
    turns = job(messages=messages).turns
    assert [(turn.role, turn.content) for turn in turns] == [
        ("system", "be brief"),
        ("system", "ab"),
        ("user", "hi"),
        ("assistant", "yes"),
        ("tool", "4"),
    ]
    assert turns[2].name == "ann"


def test_what_asks_for_nothing_is_accepted_and_unknown_keys_are_ignored():
    job(
        n=1, tools=[], tool_choice="auto", response_format={"type": "text"}, logprobs=False, logit_bias={},
        modalities=["text"], user="ann", store=True, metadata={"a": "b"}, reasoning_effort="low", frob=[1],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("n", 0),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function"}),
        ("functions", [{}]),
        ("function_call", {"name": "f"}),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"50256": -100}),
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
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls"),
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
    }
    headers = [
        ("X-Mesh-Privacy", "local"),
        ("x-mesh-route", "mesh"),
        ("x-mesh-min-tier", "4"),
        ("x-mesh-deadline-ms", "900"),
        ("x-mesh-residency", "eu, home"),
        ("x-other", "y"),
    ]
    for made in (job(mesh=asked), job(headers), job(headers, mesh=asked)):
        assert made.wish.privacy is Privacy.LOCAL
        assert made.wish.place is Place.MESH
        assert made.wish.min_tier == 4
        assert made.deadline_ms == 900
        assert made.wish.residency == ("eu", "home")


@pytest.mark.parametrize(
    ("mesh", "param"),
    [
        ({"privacy": "secret"}, "mesh.privacy"),
        ({"route": "cloud"}, "mesh.route"),
        ({"min_tier": 7}, "mesh.min_tier"),
        ({"deadline_ms": 0}, "mesh.deadline_ms"),
        ({"max_price": 3}, "mesh.max_price"),
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
        ("x-mesh-max-price", "3"),
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
