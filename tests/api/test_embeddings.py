"""POST /v1/embeddings, in virtual time."""

import base64
import json
import struct

import msgspec
import pytest
from trio.testing import MockClock

from meshnode.api.app import build
from meshnode.api.embeddings import embeddings_job, read_embeddings
from meshnode.errors import BadRequest, Busy
from meshnode.terms import Privacy, Vector
from meshnode.terms.job import INPUTS_MAX
from meshwire.limits import PROMPT_MAX
from tests.api.fakes import END, FakeDoors, chat, scripted_doors

PATH = "/v1/embeddings"


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def embedded(doors, **fields):
    exchange = chat({"model": "smollm2:135m", **fields}, path=PATH)
    await exchange.run(build(doors))
    return exchange


async def test_every_text_has_a_vector_of_unit_length():
    async with scripted_doors() as doors:
        exchange = await embedded(doors, input=["sea and sand", "sea and sand", "a cold engine"])
        one = json.loads((await embedded(doors, input="sea and sand")).text)
    body = json.loads(exchange.text)
    assert (body["object"], body["model"]) == ("list", "smollm2:135m")
    assert body["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    assert [(entry["object"], entry["index"]) for entry in body["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
        ("embedding", 2),
    ]
    first, same, other = (entry["embedding"] for entry in body["data"])
    assert sum(value * value for value in first) == pytest.approx(1)
    assert first == same == one["data"][0]["embedding"]
    assert first != other
    assert exchange.headers["x-mesh-model"] == "smollm2:135m"
    assert exchange.headers["x-request-id"] == "id1"


async def test_base64_holds_the_same_numbers():
    async with scripted_doors() as doors:
        plain = json.loads((await embedded(doors, input="sea", encoding_format="float")).text)
        packed = json.loads((await embedded(doors, input="sea", encoding_format="base64")).text)
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<64f", raw)) == plain["data"][0]["embedding"]


async def test_dimensions_must_be_those_of_the_model():
    async with scripted_doors() as doors:
        assert (await embedded(doors, input="sea", dimensions=64)).status == 200
        refused = await embedded(doors, input="sea", dimensions=32)
    assert refused.status == 400
    assert json.loads(refused.text)["error"]["param"] == "dimensions"


@pytest.mark.parametrize("values", [b"", b"abc", struct.pack("<2f", 1.0, float("nan"))])
async def test_what_is_no_vector_is_not_passed_on(values):
    exchange = await embedded(FakeDoors([Vector(0, values), END]), input="sea")
    assert exchange.status == 503
    assert json.loads(exchange.text)["error"]["code"] == "interrupted"


async def test_a_refusal_is_a_status():
    exchange = await embedded(FakeDoors(refusal=Busy("full", retry_after_s=1)), input="sea")
    assert exchange.status == 429
    assert exchange.headers["retry-after"] == "1"
    assert exchange.headers["x-request-id"] == "id1"


def job(headers=(), **fields):
    return embeddings_job(read_embeddings(json.dumps({"model": "auto", **fields}).encode(), headers), "id1")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, "input", "input:"),
        ({"input": []}, "input", "between 1 and 256"),
        ({"input": ["x"] * (INPUTS_MAX + 1)}, "input", "between 1 and 256"),
        ({"input": ""}, "input", "not empty"),
        ({"input": ["a", ""]}, "input", "not empty"),
        ({"input": [1, 2]}, "input", "Send the text"),
        ({"input": [[1, 2]]}, "input", "Send the text"),
        ({"input": [{}]}, "input", "must be a text"),
        ({"input": 3}, "input", "input:"),
        ({"input": "x" * (PROMPT_MAX + 1)}, "input", "longer"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format", "int8"),
        ({"input": "x", "dimensions": 0}, "dimensions", ">= 1"),
        ({"input": "x", "model": ""}, "model", "length >= 1"),
        ({"input": "x", "mesh": {"privacy": "secret"}}, "mesh.privacy", "public"),
    ],
)
def test_a_refused_field_is_named(fields, param, message):
    with pytest.raises(BadRequest, match=message) as caught:
        job(**fields)
    assert caught.value.param == param


def test_the_job_has_inputs_and_no_turns():
    made = job([("x-mesh-privacy", "local")], input=["a" * 40, "b"])
    assert (made.inputs, made.turns) == (("a" * 40, "b"), ())
    assert made.wish.model == ""
    assert made.wish.privacy is Privacy.LOCAL
    assert (made.wish.prompt_tokens, made.wish.output_tokens) == (11, 0)
    asked = read_embeddings(msgspec.json.encode({"model": "x", "input": "y", "mesh": {"tenant": "ann"}}))
    assert embeddings_job(asked, "id1", b"tag").tenant_tag == b"tag"
