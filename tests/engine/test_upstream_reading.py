"""What servers say, read: names, facts and cards; what they stream, in any cut; and what they are asked."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.config import Upstream
from meshnode.engine.upstream import scout
from meshnode.engine.upstream.answer import AnswerReader, Timings
from meshnode.engine.upstream.engine import UpstreamEngine
from meshnode.engine.upstream.events import EVENT_BYTES_MAX, EventReader
from meshnode.engine.upstream.offer import CONTEXT_MAX, Facts, make_offers, read_name
from meshnode.engine.upstream.pace import Pace, Watch
from meshnode.engine.upstream.request import chat_body, embedding_body
from meshnode.engine.upstream.scout import Scout
from meshnode.errors import BadRequest, ConfigInvalid, EngineFailed
from meshnode.mesh.ads import model_ad, model_payload
from meshnode.terms import (
    Bias,
    Feature,
    FinishReason,
    Job,
    Likelihood,
    Output,
    TokenLogprob,
    Tool,
    ToolCall,
    Turn,
    Usage,
    Wish,
)
from tests.engine.conftest import make_job
from tests.engine.fake_upstream import counted, delta, ended, event

NAMES = {
    "llama3.2:3b": ("llama3.2", "3b", ""),
    "llama3.2:latest": ("llama3.2", "", ""),
    "qwen3:8b-q4_K_M": ("qwen3", "8b", "q4_k_m"),
    "Qwen/Qwen2.5-7B-Instruct": ("qwen2.5", "7b", ""),
    "Qwen/Qwen2.5-Coder-7B-Instruct-AWQ": ("qwen2.5-coder", "7b", "awq"),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ("mixtral", "8x7b-v0.1", ""),
    "Llama-3.1-8B-Instruct-abliterated": ("llama-3.1", "8b-abliterated", ""),
    "qwen3-30b-a3b": ("qwen3", "30b-a3b", ""),
    "gpt-oss-20b": ("gpt-oss", "20b", ""),
    "gpt-4o": ("gpt-4o", "", ""),
    "/home/me/models/SmolLM2-135M-Instruct.Q4_1.gguf": ("smollm2", "135m", "q4_1"),
    "C:\\models\\tiny.gguf": ("tiny", "", ""),
    "big-70b-Q4_K_M-00001-of-00003.gguf": ("big", "70b", "q4_k_m"),
    "@@@": ("model", "", ""),
    ".q4_0": ("model", "", "q4_0"),
}


@pytest.mark.parametrize("model_id", NAMES)
def test_ids_come_to_names(model_id):
    assert read_name(model_id) == NAMES[model_id]


def test_a_size_may_follow_from_the_parameters():
    assert read_name("mine", 134_515_008).text == "mine:135m"
    assert read_name("mine", 7_600_000_000).text == "mine:7.6b"


def offers(*facts, context=0, quant=""):
    found = make_offers(facts, url="http://127.0.0.1:1", slots=3, context=context, quant=quant)
    return [offer.card for offer in found]


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5), st.integers(0, 2**70))
def test_whatever_a_server_calls_its_models_can_be_advertised(ids, number):
    cards = offers(*(Facts(id=one, context=number, parameters=number % 10**13) for one in ids))
    assert len({card.name for card in cards}) == len(cards) >= 1
    for card in cards:
        model_payload(model_ad(card))  # raises for what others would refuse
        assert card.context <= CONTEXT_MAX


def test_a_long_id_is_cut_to_what_an_ad_may_carry():
    for model_id in ("x" * 500, f"{'x' * 100}:{'y' * 100}", f"{'x' * 100}-7b", "7b-" * 99):
        (card,) = offers(Facts(id=model_id, parameters=10**13))
        model_payload(model_ad(card))


def test_ids_that_come_to_one_name_stay_apart():
    plain, quantised = offers(Facts(id="qwen3:8b"), Facts(id="qwen3:8b-q8_0"))
    assert (plain.name, quantised.name) == ("qwen3:8b", "qwen3:8b-q8_0")
    assert plain.digest != quantised.digest


def test_a_card_says_what_is_known_and_no_more():
    (card,) = offers(Facts(id="m:1b"))
    assert (card.context, card.quant, card.tier, card.slots) == (4096, "unknown", 0, 3)
    assert Feature.TOKEN_IDS not in card.features
    (told,) = offers(Facts(id="m:1b-q4_0", context=100, quant="FP16"), quant="Q8_0")
    assert (told.context, told.quant, told.tier) == (100, "F16", 6)
    (given,) = offers(Facts(id="m:1b", context=100), context=50, quant="q8_0")
    assert (given.context, given.quant) == (50, "Q8_0")


FEATURES = [
    (Facts(id="m", owner="vllm"), {"tools", "json-schema", "logprobs"}),
    (Facts(id="m", owner="who knows"), {"tools", "json-schema", "logprobs"}),
    (Facts(id="m", owner="me"), {"logprobs"}),
    (Facts(id="m", owner="library"), {"json-schema"}),
    (Facts(id="m", owner="library", tools=True), {"json-schema", "tools"}),
    (Facts(id="m", owner="vllm", tools=False), {"json-schema", "logprobs"}),
    (Facts(id="m", owner="vllm", chats=False, embeds=True), {"embeddings"}),
    (Facts(id="m", owner="library", embeds=True), {"json-schema", "embeddings"}),
]


@pytest.mark.parametrize(("facts", "expected"), FEATURES)
def test_features_follow_from_the_server(facts, expected):
    (card,) = offers(facts)
    assert set(card.features) == expected


class Told:
    """A client whose server answers from a table; what is not in it fails."""

    def __init__(self, **replies):
        self.replies = {path.replace("__", "/"): reply for path, reply in replies.items()}
        self.asked = []

    async def fetch(self, path, body=None, **_):
        self.asked.append(path)
        if path not in self.replies:
            raise EngineFailed("not there")
        return self.replies[path]


async def looked(**replies):
    return await Scout(Told(**replies), ()).look()


def listed(**entry):
    return {"data": [{"id": "m", **entry}]}


async def test_the_context_is_found_wherever_it_is_told():
    vllm = listed(owned_by="vllm", max_model_len=32768)
    llama = listed(owned_by="llamacpp", meta={"n_ctx": 1024, "n_ctx_train": 8192, "ftype": "Q4_1"})
    older = listed(owned_by="llamacpp", meta={"n_ctx_train": 8192})
    studio = listed(owned_by="organization_owner")
    one = {"id": "m", "type": "llm", "quantization": "Q4_K_M", "max_context_length": 131072}
    found = [
        (await looked(models=vllm))[0].context,
        (await looked(models=llama))[0].context,
        (await looked(models=older, __props={"default_generation_settings": {"n_ctx": 512}}))[0].context,
        (await looked(models=studio, __api__v0__models={"data": [one]}))[0].context,
        (await looked(models=studio, __api__v0__models={"data": [one | {"loaded_context_length": 9000}]}))[
            0
        ].context,
        (await looked(models=listed(owned_by="library"), __api__show={"model_info": {"x": 1}}))[0].context,
        (await looked(models=older))[0].context,
    ]
    assert found == [32768, 1024, 512, 4096, 9000, scout.USUAL_CONTEXT, 0]


async def test_a_server_is_asked_only_for_what_it_has():
    told = Told(models=listed(owned_by="vllm"))
    await Scout(told, ()).look()
    assert told.asked == ["models"]


async def test_what_was_learnt_is_kept_until_the_server_was_away():
    replies = {"models": listed(owned_by="llamacpp", meta={"n_ctx": 9}), "embeddings": {"data": [1]}}
    told = Told(**replies)
    looking = Scout(told, ())
    for _ in range(2):
        (fact,) = await looking.look()
        assert fact.embeds
    assert told.asked.count("embeddings") == 1
    told.replies.clear()
    with pytest.raises(EngineFailed):
        await looking.look()
    told.replies = {"models": replies["models"]}
    assert not (await looking.look())[0].embeds


async def test_models_are_bounded():
    data = [{"id": f"m{number}"} for number in range(scout.MODELS_MAX + 10)]
    assert len(await looked(models={"data": data})) == scout.MODELS_MAX


@given(st.data())
def test_events_are_the_same_in_any_cut(data):
    payloads = data.draw(st.lists(st.binary(max_size=20).map(lambda raw: raw.translate(None, b"\r\n"))))
    end = data.draw(st.sampled_from([b"\n\n", b"\r\n\r\n"]))
    stream = b"".join(b": ping\n\nevent: x\ndata: " + payload + end for payload in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = EventReader()
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [payload for part in parts for payload in reader.feed(part)] == payloads


def test_several_data_lines_are_one_event_and_none_is_endless():
    reader = EventReader()
    assert reader.feed(b"data: a\ndata:b\n\n") == [b"a\nb"]
    with pytest.raises(EngineFailed):
        for _ in range(20):
            reader.feed(b"data: " + b"x" * (EVENT_BYTES_MAX // 16) + b"\n")


def read(*parts):
    """The answer in these chunks."""
    reader, events = AnswerReader(make_job()), EventReader()
    pieces = [piece for part in parts for payload in events.feed(part) for piece in reader.take(payload)]
    return pieces, reader.end()


def called(*calls):
    return delta(tool_calls=list(calls))


def test_calls_without_ids_get_one_and_calls_that_share_an_index_stay_apart():
    f = {"name": "f", "arguments": "{}"}
    pieces, end = read(
        called({"index": 0, "id": "a", "function": f}, {"index": 0, "id": "b", "function": f}), ended()
    )
    assert [call.id for piece in pieces for call in piece.calls] == ["a", "b"]
    assert end.reason is FinishReason.TOOL_CALLS  # though the server said `stop`
    pieces, _ = read(called({"index": 0, "function": f}, {"index": 1, "function": f}), ended())
    ids = [call.id for piece in pieces for call in piece.calls]
    assert len({*ids}) == 2
    assert all(one.startswith("call_") for one in ids)


def test_likelihoods_are_read_with_or_without_bytes():
    first = {"token": "�", "bytes": [195], "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -9}]}
    second = {"token": "é", "bytes": None, "logprob": None}
    chunk = {"choices": [{"delta": {"content": "é"}, "logprobs": {"content": [first, second]}}]}
    (piece,), _ = read(event(chunk), ended())
    assert piece.logprobs == (
        TokenLogprob(b"\xc3", -0.5, (Likelihood(b"a", -9.0),)),
        TokenLogprob("é".encode(), -9999.0, ()),
    )


def test_thinking_is_no_part_of_the_answer():
    pieces, _ = read(delta(reasoning_content="hm"), delta(content="Yes."), ended())
    assert [piece.text for piece in pieces] == ["Yes."]


@pytest.mark.parametrize(
    ("said", "meant"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "stop"), ("function_call", "tool_calls")],
)
def test_reasons_are_read(said, meant):
    assert read(delta(content="a"), ended(said))[1].reason == meant


def test_usage_is_what_the_server_counted():
    more = {"choices": [], "usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}}
    assert read(delta(content="a"), ended(), event(more))[1].usage == Usage(9, 0, 4)
    assert read(delta(content="a"), ended(), counted(3, 2))[1].usage == Usage(3, 2, 0)
    assert read(delta(content="a"), ended())[1].usage == Usage()


def test_a_job_becomes_a_request():
    call = ToolCall("c1", "sky", "{}")
    job = Job(
        id="r",
        wish=Wish(),
        turns=(
            Turn(role="user", content="Hi", name="me"),
            Turn(role="assistant", content="", tool_calls=(call,)),
            Turn(role="tool", content="blue", tool_call_id="c1"),
        ),
        sampling=make_job(
            stop=("x",), seed=3, logit_bias=(Bias(5, -100.0),), top_k=1, repeat_penalty=1.1
        ).sampling,
        tools=(Tool("sky", "looks", '{"type":"object"}'), Tool("sea")),
        tool_choice="function:sky",
        parallel_tool_calls=False,
        output=Output.JSON_SCHEMA,
        schema='{"type":"object"}',
    )
    body = msgspec.json.decode(msgspec.json.encode(chat_body(job, "m", {"cache_prompt": False})))
    assert body["messages"] == [
        {"role": "user", "content": "Hi", "name": "me"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "sky", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "blue", "tool_call_id": "c1"},
    ]
    assert body["tools"][0]["function"] == {
        "name": "sky",
        "description": "looks",
        "parameters": {"type": "object"},
    }
    assert "parameters" not in body["tools"][1]["function"]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "sky"}}
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    wanted = {"stop": ["x"], "seed": 3, "logit_bias": {"5": -100.0}, "top_k": 1, "repetition_penalty": 1.1}
    assert {name: body[name] for name in wanted} == wanted
    assert (body["parallel_tool_calls"], body["cache_prompt"], body["max_tokens"]) == (False, False, 16)


def test_a_plain_job_asks_for_nothing_that_only_some_servers_know():
    assert set(chat_body(make_job(), "m")) == {
        "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens",
    }  # fmt: skip
    job = Job(id="e", wish=Wish(), turns=(), inputs=("a",))
    assert embedding_body(job, "m") == {"model": "m", "input": ["a"], "encoding_format": "float"}


def test_a_schema_cannot_add_to_the_request():
    job = msgspec.structs.replace(make_job(), tools=(Tool("f", "", '{}}}],"model":"other"'),))
    with pytest.raises(BadRequest):
        chat_body(job, "m")


def test_the_pace_is_that_of_answers_run_alone():
    pace = Pace()
    beside = Watch(sent=0.0, first=1.0, last=2.0, alone=False)
    assert not pace.note(beside, Usage(100, 101), Timings())
    alone = Watch(sent=0.0, first=1.0, last=3.0)
    assert not pace.note(alone, Usage(10, 3), Timings())  # too short to tell
    assert pace.note(alone, Usage(140, 101, 40), Timings())
    assert (pace.prompt_tps, pace.generate_tps) == (100.0, 50.0)
    slow = Watch(sent=0.0, first=60.0, last=62.0)
    pace.note(alone, Usage(140, 101, 40), Timings())
    pace.note(slow, Usage(140, 101, 40), Timings())  # it loaded the model first
    assert pace.prompt_tps == 100.0


def test_a_quant_that_is_none_is_refused():
    with pytest.raises(ConfigInvalid):
        UpstreamEngine(Upstream(url="http://127.0.0.1:9", quant="best"), {})
