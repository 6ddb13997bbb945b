"""How a bare text goes on: the body, the shapes whole and streamed, and what is refused by name."""

import json

import msgspec
import pytest
from trio.testing import MockClock

from meshnode.api.app import build
from meshnode.api.ceiling import limited
from meshnode.api.text.body import JOBS_MAX, PROMPTS_MAX, TOKENS_UNNAMED, read_text_body, text_jobs
from meshnode.engine.scripted import scripted_card
from meshnode.errors import BadRequest, ContextExceeded, Interrupted, NotAllowed
from meshnode.terms import CacheMode, End, FinishReason, Likelihood, Piece, TokenLogprob, Turn, Usage
from tests.api.fakes import END, HELLO, FakeDoors, chat, piece, scripted_doors

PATH = "/v1/completions"
MODEL = "smollm2:135m"


@pytest.fixture
def anyio_backend():
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def text_body(**fields):
    return {"model": MODEL, "prompt": "Once", **fields}


async def answered(doors, body=None, **options):
    exchange = chat(body or text_body(), path=PATH, **options)
    await exchange.run(build(doors))
    return exchange


def read(**fields):
    return read_text_body(json.dumps(text_body(**fields)).encode())


async def test_a_whole_answer_has_openais_older_shape_and_says_who_served_it():
    doors = FakeDoors()
    exchange = await answered(doors)
    assert exchange.status == 200
    assert json.loads(exchange.text) == {
        "id": "cmpl-id1",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [{"text": "Hello ☺", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }
    assert exchange.headers["x-mesh-rung"] == "peer"
    (job,) = doors.jobs
    assert job.turns == (Turn(role="text", content="Once"),)
    assert (job.sampling.max_tokens, job.wish.output_tokens) == (TOKENS_UNNAMED, TOKENS_UNNAMED)


async def test_a_stream_has_one_terminal_chunk_and_usage_only_if_asked_for():
    *chunks, done = (await answered(FakeDoors(), text_body(stream=True))).events
    assert done == "[DONE]"
    assert {(chunk["id"], chunk["object"], chunk["created"]) for chunk in chunks} == {
        ("cmpl-id1", "text_completion", 1_700_000_000)
    }
    assert [chunk["choices"] for chunk in chunks] == [
        [{"text": text, "index": 0, "logprobs": None, "finish_reason": reason}]
        for text, reason in (("Hel", None), ("lo ☺", None), ("", "stop"))
    ]
    assert all("usage" not in chunk for chunk in chunks)
    body = text_body(stream=True, stream_options={"include_usage": True})
    *chunks, counted, done = (await answered(FakeDoors(), body)).events
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert (counted["choices"], counted["usage"]["total_tokens"], done) == ([], 10, "[DONE]")


@pytest.mark.parametrize("stream", [False, True])
async def test_each_prompt_has_its_choices_and_its_echo(stream):
    async with scripted_doors(answer_tokens=3) as doors:
        body = text_body(prompt=["The sea ", "A hill"], n=2, echo=True, seed=5, stream=stream, max_tokens=3)
        body |= {"stream_options": {"include_usage": True}} if stream else {}
        exchange = await answered(doors, body)
    if stream:
        chunks = exchange.events[:-1]
        parts = [one for chunk in chunks for one in chunk["choices"]]
        texts = ["".join(one["text"] for one in parts if one["index"] == at) for at in range(4)]
        ended = sorted(one["index"] for one in parts if one["finish_reason"])
        usage = chunks[-1]["usage"]
    else:
        whole = json.loads(exchange.text)
        texts = [one["text"] for one in whole["choices"]]
        ended = [one["index"] for one in whole["choices"]]
        usage = whole["usage"]
    assert ended == [0, 1, 2, 3]
    assert [text.startswith(("The sea ", "A hill")[at // 2]) for at, text in enumerate(texts)] == [True] * 4
    assert len(set(texts)) == 4
    # Two tokens each prompt, once for both of its choices, and three of each answer.
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (4, 12)
    seeds = {job.id: job.sampling.seed for job in doors.jobs}
    assert seeds == {"id1": 5, "id1-1": 6, "id1-2": 5, "id1-3": 6}


async def test_a_prompt_in_a_list_is_like_one_by_itself_and_a_text_is_no_message():
    async with scripted_doors(answer_tokens=8) as doors:
        alone, listed = [
            json.loads((await answered(doors, text_body(prompt=prompt))).text)
            for prompt in ("Once", ["Once"])
        ]
        asked = chat({"model": MODEL, "messages": [{"role": "user", "content": "Once"}]})
        await asked.run(build(doors))
    assert alone["choices"] == listed["choices"]
    assert alone["usage"]["prompt_tokens"] == 1  # nothing of a template around it
    assert json.loads(asked.text)["choices"][0]["message"]["content"] != alone["choices"][0]["text"]


SMILE = "☺".encode()
LIKELY = (
    TokenLogprob(b" a", -0.5, (Likelihood(b" b", -0.25), Likelihood(b" a", -0.5))),
    TokenLogprob(SMILE[:1], -1.0, (Likelihood(b"x", -0.1), Likelihood(b"x", -0.9))),
    TokenLogprob(SMILE[1:], float("-inf")),
    TokenLogprob(b"!", 0.0, (Likelihood(b"!", 0.0),)),
)
LISTS = {
    "tokens": [" a", "bytes:\\xe2", "bytes:\\x98\\xba", "!"],
    "token_logprobs": [-0.5, -1.0, -9999.0, 0.0],
    "top_logprobs": [
        {" b": -0.25, " a": -0.5},
        {"x": -0.1, "bytes:\\xe2": -1.0},
        {"bytes:\\x98\\xba": -9999.0},
        {"!": 0.0},
    ],
    "text_offset": [0, 2, 2, 3],
}


async def test_likelihoods_are_lists_and_the_token_itself_is_always_among_them():
    steps = (Piece(0, (1,), " a", (), LIKELY[:1]), Piece(1, (2, 3, 4), "☺!", (), LIKELY[1:]), END)
    doors = FakeDoors(steps)
    (choice,) = json.loads((await answered(doors, text_body(logprobs=2))).text)["choices"]
    assert choice["logprobs"] == LISTS
    sampling = doors.jobs[0].sampling
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 2)
    events = (await answered(FakeDoors(steps), text_body(logprobs=2, stream=True))).events[:-1]
    told = [one["choices"][0]["logprobs"] for one in events]
    assert told[-1] is None
    assert {name: told[0][name] + told[1][name] for name in LISTS} == LISTS


async def test_none_of_the_likeliest_may_be_asked_for():
    async with scripted_doors(answer_tokens=2) as doors:
        (choice,) = json.loads((await answered(doors, text_body(logprobs=0))).text)["choices"]
    lists = choice["logprobs"]
    assert [len(lists[name]) for name in LISTS] == [2] * 4
    assert [list(top) for top in lists["top_logprobs"]] == [[token] for token in lists["tokens"]]
    assert [choice["text"][at:] for at in lists["text_offset"]] == [choice["text"], lists["tokens"][1]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2, 3] * 100}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a", None]}, "prompt"),
        ({"prompt": ["a"] * (PROMPTS_MAX + 1)}, "prompt"),
        ({"prompt": ["a"] * (JOBS_MAX // 2), "n": 3}, "n"),
        ({"n": 9}, "n"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"best_of": 0}, "best_of"),
        ({"suffix": "the end"}, "suffix"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": True, "logprobs": 0}, "echo"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(fields, param):
    doors = FakeDoors()
    exchange = await answered(doors, text_body(**fields))
    assert (exchange.status, json.loads(exchange.text)["error"]["param"]) == (400, param)
    assert doors.jobs == []


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2]], ["a", 1]])
async def test_who_sends_token_numbers_is_told_to_send_the_text(prompt):
    error = json.loads((await answered(FakeDoors(), text_body(prompt=prompt))).text)["error"]
    assert error["message"] == "Arrays of tokens are not supported. Send the text."


async def test_a_missing_prompt_is_named():
    exchange = await answered(FakeDoors(), {"model": MODEL})
    assert (exchange.status, json.loads(exchange.text)["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    "fields",
    [
        {"best_of": 2, "n": 2},
        {"best_of": 1, "n": 2},
        {"suffix": ""},
        {"user": "me", "novel": [1]},
        {"echo": None},
    ],
)
async def test_what_changes_nothing_is_taken(fields):
    assert (await answered(FakeDoors(), text_body(**fields))).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_the_field_is_called_prompt_here_also_where_an_engine_refuses(stream):
    error = ContextExceeded("too long", param="messages")
    for doors in (FakeDoors(refusal=error), FakeDoors([error])):
        exchange = await answered(doors, text_body(stream=stream))
        assert exchange.status == 400
        assert json.loads(exchange.text)["error"]["param"] == "prompt"
    assert error.param == "messages"  # others may hold it
    broken = await answered(FakeDoors([piece(0, "a"), error]), text_body(stream=True))
    assert broken.events[-1]["error"]["param"] == "prompt"


async def test_an_empty_or_too_long_prompt_is_the_engines_to_refuse():
    async with scripted_doors(card=scripted_card(context=4)) as doors:
        for prompt in ("", "one two three four five"):
            exchange = await answered(doors, text_body(prompt=prompt))
            assert (exchange.status, json.loads(exchange.text)["error"]["param"]) == (400, "prompt")


async def test_a_failure_in_mid_stream_is_the_one_last_event():
    doors = FakeDoors([piece(0, "Hel"), Interrupted("the peer left")])
    exchange = await answered(doors, text_body(stream=True))
    assert exchange.events[-1]["error"]["code"] == "interrupted"
    assert "[DONE]" not in exchange.text


async def test_the_end_says_whether_its_length_ended_it():
    doors = FakeDoors([*HELLO[:2], End(FinishReason.LENGTH, Usage(1, 2))])
    (choice,) = json.loads((await answered(doors)).text)["choices"]
    assert choice["finish_reason"] == "length"


def test_a_length_that_was_not_named_may_be_shorter_and_a_named_one_not():
    unnamed, named = text_jobs(read(), "a"), text_jobs(read(max_tokens=16), "a")
    assert (unnamed[0].sampling.shorten, named[0].sampling.shorten) == (True, False)
    assert limited(unnamed, (), 10, "max_tokens")[0].sampling.max_tokens == 10
    assert limited(unnamed, (), 100, "max_tokens") == unnamed
    with pytest.raises(NotAllowed):
        limited(named, (), 10, "max_tokens")
    two = limited(text_jobs(read(prompt=["a", "b"]), "a"), (), 10, "max_tokens")
    assert [(job.sampling.max_tokens, job.wish.output_tokens) for job in two] == [(5, 5)] * 2


def test_choices_drawn_by_lot_are_computed_each_time():
    jobs = text_jobs(read(n=2, prompt=["a", "b"]), "a")
    assert [job.wish.cache for job in jobs] == [None, CacheMode.OFF] * 2


def test_what_the_mesh_is_asked_for_is_in_every_job():
    asked = read(prompt=["a", "b"], mesh={"privacy": "sensitive", "min_tier": 3})
    assert [(job.wish.privacy, job.wish.min_tier) for job in text_jobs(asked, "a")] == [("sensitive", 3)] * 2


def test_a_prompt_longer_than_any_model_takes_is_refused(monkeypatch):
    monkeypatch.setattr("meshnode.api.options.PROMPT_MAX", 3)
    with pytest.raises(BadRequest) as caught:
        text_jobs(msgspec.structs.replace(read(), prompt="four"), "a")
    assert caught.value.param == "prompt"
