"""What the real model writes is what was asked for: schemas, calls, likelihoods, biases, vectors."""

import json
from functools import partial

import msgspec
import numpy as np
import pytest

pytest.importorskip("llama_cpp", reason="the worker needs llama-cpp-python")

from meshnode.engine.worker import schema as schemas
from meshnode.engine.worker.calls import Style
from meshnode.engine.worker.embedding import Embedder
from meshnode.engine.worker.frames import Ended, Refused
from meshnode.engine.worker.grammar import Grammar
from meshnode.engine.worker.held import Held, candidates
from meshnode.engine.worker.sampling import Sampler
from meshnode.engine.worker.vocabulary import closing_tokens, plain_tokens, token_text
from meshnode.errors import BadRequest, ContextExceeded
from meshnode.terms import Bias, FinishReason, Job, Output, Sampling, Tool, Turn, Wish
from tests.engine.schema_runs import CASES, Worker, run

pytestmark = pytest.mark.model

WEATHER = Tool(
    name="get_weather",
    description="The weather of a city",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        }
    ),
)
CLOCK = Tool(name="get_time")


@pytest.fixture(scope="module")
def worker(model_file):
    return Worker(model_file, slots=4, context=4096)


def job(text="What is the weather in Paris?", *, name="job", **more):
    sampling = {"temperature": 0.0, "max_tokens": 48, "seed": 1}
    sampling |= {key: more.pop(key) for key in list(more) if key in Sampling.__struct_fields__}
    turns = (Turn(role="user", content=text),)
    return Job(id=name, wish=Wish(), turns=turns, sampling=Sampling(**sampling), **more)


def text_of(written):
    return "".join(event.text for event in written)


def calls_of(written):
    return [call for event in written for call in event.calls]


def ids_of(written):
    return [token for event in written for token in event.ids]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_grammar_takes_every_valid_instance_and_stops_there(worker, case):
    schema = schemas.read(json.dumps(case["schema"]), "schema")
    grammar = Grammar("schema")
    text = grammar.text(grammar.add(schema).rule)
    for value in case["valid"]:
        held = Held(worker.model, text, "schema")
        written = json.dumps(value, ensure_ascii=False)
        assert all(held.accept(token) for token in plain_tokens(worker.model, written)), written
        assert held.accept(closing_tokens(worker.model)[0]), written
        held.free()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_whatever_a_grammar_lets_pass_is_valid(worker, case):
    """No model at all: any token that may come is as good as another, which no model is as hostile as."""
    schema = schemas.read(json.dumps(case["schema"]), "schema")
    grammar, rng = Grammar("schema"), np.random.default_rng(7)
    held = Held(worker.model, grammar.text(grammar.add(schema).rule), "schema")
    written, everything = b"", np.arange(worker.model.vocabulary)
    for place in range(300):
        token = held.first(closing_tokens(worker.model)) if place > 12 else None
        if token is None:
            some = np.sort(rng.choice(everything, 512, replace=False))
            allowed = held.among(candidates(some, np.zeros(len(some))))
            if not len(allowed):
                allowed = held.among(candidates(everything, np.zeros(len(everything))))
            token = int(rng.choice(allowed["id"]))
        if worker.model.ends(token):
            break
        assert held.accept(token)
        written += worker.model.piece(token)
    held.free()
    assert schemas.fault(schema, written.decode()) == ""


def test_a_rejected_token_is_not_taken(worker):
    held = Held(worker.model, 'root ::= "ab" | "ac"', "schema")
    assert not held.accept(plain_tokens(worker.model, "x")[0])
    assert all(
        held.accept(token) for token in plain_tokens(worker.model, "a") + plain_tokens(worker.model, "c")
    )
    held.free()
    with pytest.raises(BadRequest):
        Held(worker.model, "root ::= nothing", "schema")


def test_neither_control_tokens_nor_bytes_that_make_no_character_come(worker):
    held = Held(worker.model, 'root ::= [^"]{1,99}', "schema")
    assert not held.allows(plain_tokens(worker.model, "<|im_start|>", special=True)[0])
    byte = {worker.model.piece(token): token for token in range(worker.model.vocabulary)}
    assert held.accept(byte[b"\xe0"])
    assert not held.accept(byte[b"\x8d"])  # an overlong form, which llama.cpp takes for U+0342
    assert held.accept(byte[b"\xa4"])
    held.free()


def test_twenty_answers_under_schemas_end_and_are_valid(worker):
    found = run(worker, 20)
    assert not [end for _, _, end in found if isinstance(end, Refused)]
    stopped = [(case, text) for case, text, end in found if end.reason is FinishReason.STOP]
    assert len(stopped) >= 19
    assert not [text for case, text in stopped if schemas.fault(case["schema"], text)]


def test_a_structured_answer_comes_to_its_end_within_its_limit(worker):
    schema = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in "abc"},
        "required": [*"abc"],
    }
    wanted = partial(
        job, "Write three very long stories as JSON.", output=Output.JSON_SCHEMA, schema=json.dumps(schema)
    )
    endless = Bias(plain_tokens(worker.model, " and")[0], 100.0)
    [(written, end)] = worker.answer(wanted(logit_bias=(endless,), max_tokens=60))
    assert end.reason is FinishReason.STOP
    assert set(json.loads(text_of(written))) == set("abc")
    [(_, end)] = worker.answer(wanted(max_tokens=3))
    assert end.reason is FinishReason.LENGTH


def test_any_object_is_an_object(worker):
    [(written, end)] = worker.answer(job("Give me a person as JSON.", output=Output.JSON_OBJECT))
    assert end.reason is FinishReason.STOP
    assert isinstance(json.loads(text_of(written)), dict)


def test_a_bad_schema_is_refused_by_name(worker):
    [(_, end)] = worker.answer(job(output=Output.JSON_SCHEMA, schema='{"not": {}}'))
    assert (end.code, end.param) == ("invalid_request", "response_format")
    assert "not" in end.message


@pytest.mark.parametrize("choice", ["required", "function:get_weather"])
def test_a_required_call_is_always_one_and_fits_its_parameters(worker, choice):
    [(written, end)] = worker.answer(
        job(tools=(CLOCK, WEATHER), tool_choice=choice, parallel_tool_calls=False)
    )
    [call] = calls_of(written)
    assert end.reason is FinishReason.TOOL_CALLS
    assert len(ids_of(written)) == end.completion_tokens
    assert text_of(written) == ""
    if choice != "required":
        assert call.name == "get_weather"
        assert schemas.fault(json.loads(WEATHER.parameters), call.arguments) == ""


@pytest.mark.parametrize("style", list(Style))
def test_once_the_marker_is_written_a_call_must_be_valid(worker, style):
    opening = {Style.HERMES: "<tool_call>", Style.MISTRAL: "[TOOL_CALLS]", Style.LLAMA: '{"name"'}[style]
    sampler = Sampler(job(tools=(WEATHER,)), worker.model, style=style, limit=99)
    sampler.replay(plain_tokens(worker.model, opening))
    with pytest.raises(BadRequest) as refusal:
        sampler.replay(plain_tokens(worker.model, " nonsense"))
    assert refusal.value.param == "resume"
    sampler.free()
    free = Sampler(job(), worker.model, style=style, limit=99)
    free.replay(plain_tokens(worker.model, f"{opening} nonsense"))
    free.free()


def test_tools_that_may_be_called_leave_plain_answers_alone(worker):
    [(written, end)] = worker.answer(job("Say hello.", tools=(WEATHER,), max_tokens=12))
    assert end.reason in (FinishReason.STOP, FinishReason.LENGTH, FinishReason.TOOL_CALLS)
    assert bool(text_of(written)) != bool(calls_of(written))


def test_likelihoods_are_the_models_own(worker):
    plain, warm = (
        partial(job, "Count: one two three", logprobs=True, top_logprobs=5, max_tokens=6, name=name)
        for name in ("plain", "warm")
    )
    (greedy, _), (penalised, _) = worker.answer(plain(), warm(temperature=2.0, presence_penalty=2.0, seed=5))
    entries = [entry for event in greedy for entry in event.logprobs]
    assert len(entries) == len(ids_of(greedy)) == 6
    assert b"".join(entry.token for entry in entries).decode() == text_of(greedy)
    for entry in entries:
        assert entry.token == entry.top[0].token  # greedy takes the likeliest
        assert entry.logprob == entry.top[0].logprob <= 0
        likely = [one.logprob for one in entry.top]
        assert likely == sorted(likely, reverse=True)
        assert sum(np.exp(likely)) <= 1.000001
    first = next(event.logprobs[0] for event in penalised if event.logprobs)
    assert first.top[0].token == entries[0].top[0].token
    assert abs(first.top[0].logprob - entries[0].top[0].logprob) < 0.1  # not equal: batches differ a little


def test_nobody_pays_for_likelihoods_that_nobody_asked_for(worker):
    [(written, _)] = worker.answer(job(max_tokens=3))
    assert not any(event.logprobs for event in written)


def test_biases_force_and_forbid(worker):
    [wanted] = plain_tokens(worker.model, " blue")
    [(written, _)] = worker.answer(job(logit_bias=(Bias(wanted, 100.0),), max_tokens=3))
    assert ids_of(written) == [wanted] * 3
    [(before, _)] = worker.answer(job(max_tokens=1))
    [(after, _)] = worker.answer(job(max_tokens=1, logit_bias=(Bias(ids_of(before)[0], -100.0),)))
    assert ids_of(before) != ids_of(after)
    [(_, end)] = worker.answer(job(logit_bias=(Bias(10**6, 1.0),)))
    assert (end.code, end.param) == ("invalid_request", "logit_bias")


def test_a_resumed_answer_goes_on_as_it_would_have(worker):
    more = {"output": Output.JSON_OBJECT, "max_tokens": 40}
    [(whole, end)] = worker.answer(job("A person as JSON.", **more))
    ids = ids_of(whole)
    [(rest, resumed_end)] = worker.answer(job("A person as JSON.", resume=tuple(ids[:5]), **more))
    assert rest[0].first_index == 5
    assert ids_of(rest) == ids[5:]
    assert isinstance(end, Ended)
    assert resumed_end.reason is end.reason
    assert resumed_end.completion_tokens == end.completion_tokens


def test_seeded_draws_go_on_with_their_numbers(worker):
    whole = Sampler(job(temperature=1.0, seed=3), worker.model, limit=9)
    resumed = Sampler(job(temperature=1.0, seed=3), worker.model, limit=9)
    flat = candidates(np.arange(1000), np.zeros(1000))
    drawn = [whole._pick(flat.copy()) for _ in range(6)]
    resumed.replay(drawn[:3])
    assert [resumed._pick(flat.copy()) for _ in range(3)] == drawn[3:]
    whole.free()
    resumed.free()


def text_job(text, **more):
    return msgspec.structs.replace(job(**more), turns=(Turn(role="text", content=text),))


def test_a_bare_text_goes_to_the_model_as_it_is_and_can_be_resumed(worker):
    text = "<|im_start|>def add(a, b):\n    return"  # the mark of this family, as one token
    [(whole, end)] = worker.answer(text_job(text, max_tokens=12))
    assert (
        end.prompt_tokens == len(worker.model.tokens(text)) == len(plain_tokens(worker.model, text[12:])) + 1
    )
    assert text_of(whole).startswith(" a + b\n")
    ids = ids_of(whole)
    [(rest, resumed)] = worker.answer(text_job(text, max_tokens=12, resume=tuple(ids[:5])))
    assert (rest[0].first_index, ids_of(rest)) == (5, ids[5:])
    assert (resumed.reason, resumed.completion_tokens) == (end.reason, end.completion_tokens)


def test_a_prompt_without_tokens_is_refused(worker):
    [(_, end)] = worker.answer(text_job(""))
    assert (end.code, end.param) == ("invalid_request", "messages")


@pytest.mark.parametrize("token", [2**32 - 1, 49152])
def test_what_to_resume_from_must_be_tokens(worker, token):
    [(_, end)] = worker.answer(job(resume=(token,)))
    assert (end.code, end.param) == ("invalid_request", "resume")


def test_what_to_resume_from_must_fit_the_schema(worker):
    resume = tuple(plain_tokens(worker.model, "no json"))
    [(_, end)] = worker.answer(job(resume=resume, output=Output.JSON_OBJECT))
    assert (end.code, end.param) == ("invalid_request", "resume")


def test_vectors_are_of_unit_length_and_near_where_texts_are(worker):
    embedder = Embedder(worker.model)
    texts = ["The cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose by two percent."]
    vectors = [np.frombuffer(embedder.embed(worker.model.tokens(text)), "<f4") for text in texts]
    assert all(abs(float(vector @ vector) - 1) < 1e-4 for vector in vectors)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.05
    again = np.frombuffer(embedder.embed(worker.model.tokens(texts[0])), "<f4")
    assert np.array_equal(again, vectors[0])  # the texts between have left nothing behind


def test_an_input_must_be_there_and_not_too_long(worker):
    embedder = Embedder(worker.model)
    with pytest.raises(BadRequest):
        embedder.embed([])
    with pytest.raises(ContextExceeded, match=f"at most {embedder.longest}"):
        embedder.embed([5] * (embedder.longest + 1))


def test_a_control_token_has_a_name(worker):
    end = closing_tokens(worker.model)[0]
    assert worker.model.piece(end) == b""
    assert token_text(worker.model, end) == b"<|im_end|>"
