"""A program's question as a Job: every name is known, every type is checked."""

from typing import Any

import pytest

from meshnode.errors import BadRequest
from meshnode.node.asking import embedding_job, job_from
from meshnode.terms import Bias, Job, Output, Tool, Turn


def tag_of(tenant: str) -> bytes:
    return tenant[::-1].encode()


def job(**wishes: Any) -> Job:
    return job_from("hi there", wishes, "id1", tag_of)


def test_every_wish_finds_its_place() -> None:
    made = job(
        model="smollm2:135m", max_tokens=7, deadline_s=1.5, tenant="ann", resume=[1, 2], logprobs=True,
        top_logprobs=2, logit_bias={3: -100}, tools=[{"name": "look", "parameters": {"type": "object"}}],
        tool_choice="required", parallel_tool_calls=False, schema={"type": "object"}, signed_by=("ab",),
    )  # fmt: skip
    assert made.turns == (Turn(role="user", content="hi there"),)
    assert (made.wish.model, made.wish.output_tokens, made.wish.signed_by) == ("smollm2:135m", 7, ("ab",))
    assert (made.deadline_ms, made.tenant_tag, made.resume) == (1500, b"nna", (1, 2))
    assert made.sampling.logit_bias == (Bias(3, -100.0),)
    assert made.tools == (Tool("look", "", '{"type": "object"}'),)
    assert (made.tool_choice, made.parallel_tool_calls) == ("required", False)
    assert (made.output, made.schema) == (Output.JSON_SCHEMA, '{"type": "object"}')


def test_structs_and_texts_are_taken_as_they_are() -> None:
    made = job(tools=(Tool("look"),), schema="{}", logit_bias=(Bias(1, 2.0),), output="json_object")
    assert (made.tools, made.schema, made.output) == ((Tool("look"),), "{}", Output.JSON_OBJECT)
    assert made.sampling.logit_bias == (Bias(1, 2.0),)
    assert job().tenant_tag == b""


@pytest.mark.parametrize(
    ("wishes", "param"),
    [
        ({"telepathy": True}, "telepathy"),
        ({"tools": [{"nam": "look"}]}, "tools[0]"),
        ({"tools": [{"name": "a b"}]}, "tools[0].name"),
        ({"tools": 3}, "tools"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"schema": {1, 2}}, "schema"),
        ({"output": "yaml"}, "output"),
        ({"resume": "abc"}, "resume"),
        ({"resume": [-1]}, "resume[0]"),
        ({"logit_bias": {"a": 1}}, "logit_bias[0].token"),
        ({"logit_bias": {1: 101}}, "logit_bias[0].value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"tenant": 3}, "tenant"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"inputs": ("x",)}, "inputs"),
    ],
)
def test_what_is_not_understood_is_named(wishes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        job(**wishes)
    assert caught.value.param == param


def test_texts_to_embed_are_inputs_without_turns() -> None:
    made = embedding_job(["a" * 40, "b"], {"model": "smollm2:135m", "tenant": "ann"}, "id1", tag_of)
    assert (made.inputs, made.turns, made.tenant_tag) == (("a" * 40, "b"), (), b"nna")
    assert (made.wish.prompt_tokens, made.wish.output_tokens) == (11, 0)
    assert embedding_job("sea", {}, "id1", tag_of).inputs == ("sea",)


@pytest.mark.parametrize("texts", [[], "", ["a", ""], [3]])
def test_what_is_no_text_cannot_be_embedded(texts: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        embedding_job(texts, {}, "id1", tag_of)
    assert caught.value.param == "texts"


@pytest.mark.parametrize("name", ["tools", "max_tokens", "resume"])
def test_an_embedding_has_no_wishes_for_an_answer(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        embedding_job("sea", {name: 1}, "id1", tag_of)
    assert caught.value.param == name
