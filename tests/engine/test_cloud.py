"""A commercial API against a scripted server: what is sent, what is told, what it costs, and how it fails."""

from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from meshnode.engine.cloud.engine import CloudEngine
from meshnode.engine.cloud.offer import most_answer_tokens
from meshnode.engine.upstream.client import Fate
from meshnode.engine.upstream.runs import UpstreamRun
from meshnode.errors import BadRequest, Busy, ConfigInvalid, EngineFailed, MeshError, NoCandidate
from meshnode.routing.plan import make_plan
from meshnode.routing.policy import parse_model
from meshnode.seams import inline
from meshnode.serve.cloud import CloudRung
from meshnode.serve.needs import with_needs
from meshnode.terms import CloudApi, CloudModel, End, Feature, Piece, Privacy, Sampling, ToolCall, Turn
from tests.engine.conftest import make_job
from tests.engine.fake_upstream import Reply, answer, delta, ended, event, fake_upstream, streamed
from tests.node.small_mesh import World

MODEL = CloudModel(id="Vendor/Big-8B-Instruct", input_usd=1.0, output_usd=2.0, output=100)
CENT = 10_000_000
KEY = "sk-very-secret"


def api_at(url: str, **facts) -> CloudApi:
    base = {
        "name": "paid",
        "url": url,
        "models": (MODEL,),
        "monthly_usd": 10.0,
        "privacy": ("public", "private"),
    }
    return CloudApi(**{**base, **facts})


def asking(text="Hello?", **wish):
    job = make_job()
    job = msgspec.structs.replace(job, turns=(Turn(role="user", content=text),), sampling=Sampling())
    return msgspec.structs.replace(job, wish=msgspec.structs.replace(job.wish, model="", **wish))


@asynccontextmanager
async def rung(tmp_path, *apis, env=None):
    """The rung of these APIs, alive."""
    made = CloudRung(apis, tmp_path, World(tmp_path).seams(), env or {})
    async with trio.open_nursery() as nursery:
        await nursery.start(made.live)
        yield made
        nursery.cancel_scope.cancel()


async def emitted(made, job, at=0):
    with trio.fail_after(20):
        async with made.run(made.candidates(job)[at], job) as items:
            return [item async for item in items]


async def failed(made, job) -> MeshError:
    with trio.fail_after(20), pytest.raises(MeshError) as caught:
        await emitted(made, job)
    return caught.value


async def test_an_answer_streams_and_costs_what_was_counted(tmp_path):
    async with fake_upstream() as fake, rung(tmp_path, api_at(fake.url)) as made:
        *pieces, end = await emitted(made, asking())
        assert ([piece.text for piece in pieces], isinstance(end, End)) == (["Hello", " there"], True)
        (view,) = made.views()
    assert (view.spent_usd, view.held_usd, view.requests) == (pytest.approx((5 * 1 + 2 * 2) / 1e6), 0.0, 1)
    assert view.left_usd == pytest.approx(10 - 9e-6)


async def test_the_length_that_is_held_for_is_the_length_that_is_asked_for(tmp_path):
    async with fake_upstream() as fake, rung(tmp_path, api_at(fake.url)) as made:
        await emitted(made, asking())
        body = fake.chat()
        most = made.candidates(asking())[0].cloud.most_usd
        assert (body["model"], body["max_tokens"]) == ("Vendor/Big-8B-Instruct", 100)
        assert "temperature" not in body  # nobody asked for one
        assert most >= (len("Hello?") + 1024) * 1e-6 + 100 * 2e-6
        longer = msgspec.structs.replace(
            asking(), sampling=msgspec.structs.replace(asking().sampling, max_tokens=7)
        )
        await emitted(made, longer)
        assert fake.chat()["max_tokens"] == 7


async def test_the_limit_goes_by_the_name_that_the_api_has_for_it(tmp_path):
    async with (
        fake_upstream() as fake,
        rung(tmp_path, api_at(fake.url, limit_field="max_completion_tokens")) as made,
    ):
        await emitted(made, asking())
        assert (fake.chat()["max_completion_tokens"], "max_tokens" in fake.chat()) == (100, False)


async def test_the_key_goes_to_the_api_and_nowhere_else(tmp_path):
    env = {"PAID_KEY": KEY}
    refusal = Reply(400, [b'{"error":{"message":"bad sk-very-secret"}}'])
    async with (
        fake_upstream(chat=refusal) as fake,
        rung(tmp_path, api_at(fake.url, api_key_env="PAID_KEY"), env=env) as made,
    ):
        error = await failed(made, asking())
        assert fake.asked[-1].headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in str(error)
        assert KEY not in msgspec.json.encode(made.views()).decode()


def test_a_key_that_is_not_there_or_open_to_others_is_refused(tmp_path):
    with pytest.raises(ConfigInvalid, match="no API key in the variable PAID_KEY") as caught:
        CloudEngine(api_at("http://127.0.0.1:1", api_key_env="PAID_KEY"), {}, inline)
    assert caught.value.param == "cloud"
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0o644)
    with pytest.raises(ConfigInvalid, match="chmod 600"):
        CloudEngine(api_at("http://127.0.0.1:1", api_key_file=str(path)), {}, inline)


COSTS = {
    "400": (Reply(400, [b"{}"]), BadRequest, "free"),
    "401": (Reply(401, [b"{}"]), EngineFailed, "free"),
    "429": (Reply(429, [b"{}"], headers={"retry-after": "7"}), Busy, "free"),
    "500": (Reply(500, [b"{}"]), EngineFailed, "free"),
    "cut before a word": (streamed(cut=True), EngineFailed, "all"),
    "cut in the middle": (streamed(delta(content="a"), cut=True), EngineFailed, "all"),
    "an error inside": (streamed(event({"error": {"message": "no", "code": 500}})), EngineFailed, "all"),
}


@pytest.mark.parametrize("name", COSTS)
async def test_what_a_failure_costs(tmp_path, name):
    reply, kind, cost = COSTS[name]
    async with fake_upstream(chat=reply) as fake, rung(tmp_path, api_at(fake.url)) as made:
        most = made.candidates(asking())[0].cloud.most_usd
        assert isinstance(await failed(made, asking()), kind)
        (view,) = made.views()
    assert (view.spent_usd, view.held_usd) == (0.0, 0.0)
    assert view.assumed_usd == pytest.approx(0.0 if cost == "free" else most)


async def test_a_server_that_is_not_there_costs_nothing(tmp_path):
    async with rung(tmp_path, api_at("http://127.0.0.1:1")) as made:
        assert "not running" in str(await failed(made, asking()))
        assert made.views()[0].assumed_usd == 0.0


async def test_an_answer_that_nobody_counted_counts_at_its_most(tmp_path):
    async with (
        fake_upstream(chat=streamed(delta(content="a"), ended())) as fake,
        rung(tmp_path, api_at(fake.url)) as made,
    ):
        most = made.candidates(asking())[0].cloud.most_usd
        await emitted(made, asking())
        assert made.views()[0].assumed_usd == pytest.approx(most)


async def test_whoever_leaves_pays_the_most_and_the_connection_is_closed(tmp_path):
    hanging = streamed(delta(content="a"), hang=True)
    async with fake_upstream(chat=hanging) as fake, rung(tmp_path, api_at(fake.url)) as made:
        job = asking()
        candidate = made.candidates(job)[0]
        async with made.run(candidate, job) as items:
            assert await anext(items) == Piece(0, (), "a")
            assert made.views()[0].held_usd == pytest.approx(candidate.cloud.most_usd)
        with trio.fail_after(5):
            while fake.open or made.views()[0].in_flight:
                await trio.sleep(0.01)
        assert made.views()[0].assumed_usd == pytest.approx(candidate.cloud.most_usd)


async def test_it_rests_after_a_failure_and_comes_back(tmp_path):
    async with fake_upstream(chat=Reply(500, [b"{}"])) as fake, rung(tmp_path, api_at(fake.url)) as made:
        await failed(made, asking())
        candidate = made.candidates(asking())[0]
        assert (candidate.accepting, made.views()[0].state) == (False, "resting")
        assert isinstance(await failed(made, asking()), Busy)
        assert len(fake.asked) == 1
        fake.replies["/v1/chat/completions"] = answer("back")
        with trio.fail_after(5):
            while not made.candidates(asking())[0].accepting:
                await trio.sleep(0.05)
        assert (await emitted(made, asking()))[0].text == "back"
        assert made.views()[0].state == "ready"


async def test_limits_of_one_request_hold_for_what_is_really_sent(tmp_path):
    async with fake_upstream() as fake, rung(tmp_path, api_at(fake.url)) as made:
        job = asking()
        candidate = made.candidates(job)[0]
        for more in ({"max_price_usd": candidate.cloud.most_usd * 0.9}, {"privacy": Privacy.SENSITIVE}):
            wish = msgspec.structs.replace(job.wish, **more)
            with pytest.raises(MeshError):
                async with made.run(candidate, msgspec.structs.replace(job, wish=wish)):
                    pass
        assert fake.asked == []


async def test_personal_details_do_not_leave_and_come_back_in_the_answer(tmp_path):
    call = [{"index": 0, "id": "c", "function": {"name": "send", "arguments": '{"to":"<EMAIL_1>"}'}}]
    reply = streamed(delta(content="Mail <EM"), delta(content="AIL_1> now"), delta(tool_calls=call), ended())
    async with fake_upstream(chat=reply) as fake, rung(tmp_path, api_at(fake.url, redact=True)) as made:
        items = await emitted(made, asking("I am ann@home.example, ring +44 20 7946 0958"))
        told = msgspec.json.encode(fake.chat()).decode()
    assert fake.chat()["messages"][0]["content"] == "I am <EMAIL_1>, ring <PHONE_1>"
    assert ("ann@" in told, "7946" in told) == (False, False)
    assert "".join(item.text for item in items[:-1]) == "Mail ann@home.example now"
    assert [item.calls for item in items[:-1] if item.calls] == [
        (ToolCall("c", "send", '{"to":"ann@home.example"}'),)
    ]


async def test_text_that_waited_for_a_placeholder_comes_before_the_end(tmp_path):
    reply = streamed(delta(content="a <"), ended())
    async with fake_upstream(chat=reply) as fake, rung(tmp_path, api_at(fake.url, redact=True)) as made:
        items = await emitted(made, asking("I am ann@home.example"))
    assert "".join(item.text for item in items[:-1]) == "a <"
    assert isinstance(items[-1], End)


async def test_texts_are_embedded_for_the_price_of_what_was_read(tmp_path):
    model = CloudModel(id="text-embed-3", input_usd=1.0, output_usd=0.0, features=(Feature.EMBEDDINGS,))
    vectors = {"data": [{"index": 0, "embedding": [3.0, 4.0]}], "usage": {"prompt_tokens": 2}}
    reply = Reply(parts=[msgspec.json.encode(vectors)])
    job = msgspec.structs.replace(asking(), turns=(), inputs=("sea",))
    async with (
        fake_upstream(embeddings=reply) as fake,
        rung(tmp_path, api_at(fake.url, models=(model,))) as made,
    ):
        assert made.candidates(job)[0].card.only_embeds
        vector, end = await emitted(made, job)
        assert (vector.index, end.usage.prompt_tokens) == (0, 2)
        assert made.views()[0].spent_usd == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("vendor/big-8b-instruct", True),
        ("Vendor/Big-8B-Instruct", True),
        ("big:8b", True),
        ("qwen3:8b", True),
        ("qwen3", True),
        ("auto", True),
        ("other:8b", False),
    ],
)
async def test_a_model_is_found_by_each_of_its_names(tmp_path, wanted, fits):
    model = msgspec.structs.replace(MODEL, names=("Qwen3:8b",))
    async with rung(tmp_path, api_at("http://127.0.0.1:1", models=(model,))) as made:
        (candidate,) = made.candidates(asking())[:1]
        job = asking()
        job = msgspec.structs.replace(job, wish=msgspec.structs.replace(job.wish, model=wanted))
        (candidate,) = made.candidates(job)
    assert parse_model(wanted).fits(candidate.card) is fits
    assert candidate.cloud.model == "Vendor/Big-8B-Instruct"


async def test_too_many_that_wait_are_told_so(tmp_path):
    hanging = streamed(delta(content="a"), hang=True)
    async with fake_upstream(chat=hanging) as fake:
        engine = CloudEngine(api_at(fake.url, slots=1), {}, inline)
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                run = UpstreamRun(asking())
                async with engine.place(run):
                    await engine.send(await engine.prepare(asking(), engine.offers[0]), run, Fate())

            for _ in range(5):
                nursery.start_soon(one)
            with trio.fail_after(5):
                while not fake.open:
                    await trio.sleep(0.01)
            assert (engine.accepting, engine.load.in_flight, fake.open) == (False, 5, 1)
            with pytest.raises(Busy, match="no more work"):
                async with engine.place(UpstreamRun(asking())):
                    pass
            nursery.cancel_scope.cancel()
        await engine.aclose()


def test_an_answer_that_may_be_shorter_is_no_longer_than_what_the_api_gives():
    lengths = [
        most_answer_tokens(make_job(max_tokens=asked, shorten=shorten), MODEL)
        for asked, shorten in ((0, False), (60, True), (1000, True))
    ]
    assert lengths == [100, 60, 100]


async def test_no_commercial_api_is_asked_how_a_bare_text_goes_on(tmp_path):
    text = msgspec.structs.replace(asking(), turns=(Turn(role="text", content="Once"),))
    model = msgspec.structs.replace(MODEL, features=tuple(Feature))
    async with fake_upstream() as fake, rung(tmp_path, api_at(fake.url, models=(model,))) as made:
        (candidate,) = made.candidates(text)
        assert Feature.TEXT not in candidate.card.features
        with pytest.raises(NoCandidate):
            raise make_plan(with_needs(text), [candidate]).refusal()
        with pytest.raises(BadRequest):
            async with made.run(candidate, text):
                raise AssertionError("it was run")
        assert fake.asked == []
