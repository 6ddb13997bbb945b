"""API keys as clients meet them: the openai client and plain HTTP, over real sockets."""

import json

import httpx2
import openai
import pytest
import trio

from meshnode.api import keys as module
from meshnode.api.app import build
from meshnode.api.ceiling import allowed
from meshnode.api.dashboard.page import is_page
from meshnode.api.keys import SCOPES, scope_of
from meshnode.api.options import MeshOptions
from meshnode.control.keys import CreateKey, RevokeKey
from meshnode.errors import BadRequest
from meshnode.terms import Privacy
from meshnode.terms.profile import Grant, NamedProfile, Profile, Scope
from tests.api.fakes import HELLO, FakeDoors, piece, request_body
from tests.api.keyed import keyed, openai_client

OPERATORS = ("/metrics", "/admin")
CHAT = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}]}

# These clients leave their generators to the collector when a stream is left early.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator '(httpx2|openai|httpcore2):ResourceWarning")


def asking(**mesh):
    return {**CHAT, "extra_body": {"mesh": mesh}} if mesh else CHAT


async def refused(home, kind, wanted, **limits):
    """What the openai client raises for a request under these limits, though it would try twice more."""
    doors, looked = FakeDoors(), []
    async with (
        keyed(home, doors) as api,
        openai_client(api.url, await api.key(**limits), max_retries=2) as client,
    ):
        grant = api.ring.grant
        api.ring.grant = lambda text: (looked.append(text), grant(text))[1]
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**wanted)
    assert doors.jobs == []
    assert len(looked) == 1
    return caught.value


async def status_of(url, key="", path="/v1/models", **headers):
    given = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(base_url=url) as client:
        return await client.get(path, headers={**given, **headers})


async def test_without_keys_loopback_is_open_as_ever(tmp_path):
    doors = FakeDoors()
    async with keyed(tmp_path, doors) as api:
        assert (await status_of(api.url)).status_code == 200
        async with openai_client(api.url, "unused") as client:
            assert (await client.chat.completions.create(**CHAT)).choices[0].message.content == "Hello ☺"
    assert doors.jobs[0].tenant_tag == b""


async def test_a_key_opens_and_its_id_is_the_tenant(tmp_path):
    doors = FakeDoors()
    async with keyed(tmp_path, doors, require_key=True) as api:
        key = await api.key()
        identifier = key.split("-")[1]
        async with openai_client(api.url, key) as client:
            await client.chat.completions.create(**CHAT)
            await client.chat.completions.create(**asking(tenant="ann"))
            stream = await client.chat.completions.create(**CHAT, stream=True)
            assert [chunk async for chunk in stream]
    tags = [job.tenant_tag for job in doors.jobs]
    own = f"tag of key {identifier}"
    assert tags == [own.encode(), f"{own}{own}\nann".encode(), own.encode()]


async def test_where_one_is_needed_a_request_without_is_401_with_a_challenge(tmp_path):
    async with keyed(tmp_path, FakeDoors(), require_key=True) as api:
        answer = await status_of(api.url)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["x-request-id"]
        error = answer.json()["error"]
        assert error["code"] == "invalid_api_key"
        assert sorted(error) == ["code", "message", "param", "type"]
        assert (await status_of(api.url, path="/healthz")).status_code == 200
        assert (await status_of(api.url, authorization="Basic bXk6b3du")).status_code == 401


async def test_where_one_is_needed_nobody_is_told_to_send_none(tmp_path):
    async with keyed(tmp_path, FakeDoors(), require_key=True) as api:
        message = (await status_of(api.url, "unused")).json()["error"]["message"]
    assert "`meshnode keys create NAME`" in message
    assert "without any key" not in message


async def test_an_api_that_listens_for_others_needs_one_too(tmp_path):
    async with keyed(tmp_path, FakeDoors(), public=True) as api:
        assert (await status_of(api.url)).status_code == 401
        assert (await status_of(api.url, await api.key())).status_code == 200


@pytest.mark.parametrize("how", ["wrong", "revoked", "expired", "garbage"])
async def test_a_key_that_is_presented_is_checked_also_where_none_is_needed(tmp_path, how):
    moment = [1_700_000_000.0]
    async with keyed(tmp_path, FakeDoors(), wall=lambda: moment[0]) as api:
        key = await api.key("other" if how == "expired" else "desk")
        if how == "expired":
            made = await api.ring.create(CreateKey(name="desk", expires_s=60))
            key, moment[0] = made.key, moment[0] + 61
        if how == "revoked":
            await api.ring.revoke(RevokeKey("desk"))
        if how == "wrong":
            key = key[:-1] + ("a" if key[-1] != "a" else "b")
        async with openai_client(api.url, "hello" if how == "garbage" else key) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.chat.completions.create(**CHAT)
        assert caught.value.code == "invalid_api_key"
        assert "`meshnode keys create NAME`" in caught.value.message
        assert "without any key" in caught.value.message
        assert (await status_of(api.url)).status_code == 200  # the owner of the machine, who presents none


async def test_a_key_for_public_may_not_ask_for_more_and_is_not_tried_again(tmp_path):
    error = await refused(
        tmp_path, openai.PermissionDeniedError, asking(privacy="private"), privacy=(Privacy.PUBLIC,)
    )
    assert error.param == "mesh.privacy"
    assert error.code == "not_allowed"
    assert error.response.headers["x-should-retry"] == "false"
    assert "public" in error.body["message"]


async def test_the_ceilings_hold_for_responses_too(tmp_path):
    doors = FakeDoors()
    async with keyed(tmp_path, doors) as api:
        key = await api.key(privacy=(Privacy.PUBLIC,), max_tokens=50)
        async with openai_client(api.url, key) as client:
            with pytest.raises(openai.PermissionDeniedError) as caught:
                await client.responses.create(model="m", input="hello", max_output_tokens=51)
            assert caught.value.param == "max_output_tokens"
            with pytest.raises(openai.PermissionDeniedError) as caught:
                await client.responses.create(
                    model="m", input="hello", extra_body={"mesh": {"privacy": "private"}}
                )
            assert caught.value.param == "mesh.privacy"
            await client.responses.create(model="m", input="hello")
    (job,) = doors.jobs
    assert (job.wish.privacy, job.sampling.max_tokens) == (Privacy.PUBLIC, 50)


async def test_what_a_request_leaves_open_is_within_what_its_key_allows(tmp_path):
    doors = FakeDoors()
    async with keyed(tmp_path, doors, request_s=60) as api:
        narrow = await api.key("a", privacy=(Privacy.PUBLIC,), max_tokens=50, cloud=False)
        wide = await api.key("b")
        for key in (narrow, wide):
            async with openai_client(api.url, key) as client:
                await client.chat.completions.create(**CHAT)
        async with openai_client(api.url, narrow) as client:
            await client.chat.completions.create(**CHAT, n=2)
    bounded, free, *choices = doors.jobs
    assert (bounded.wish.privacy, free.wish.privacy) == (Privacy.PUBLIC, Privacy.PRIVATE)
    assert (bounded.sampling.max_tokens, bounded.wish.output_tokens) == (50, 50)
    assert (bounded.sampling.shorten, free.sampling.shorten) == (True, False)
    assert free.sampling.max_tokens == 0
    assert (bounded.wish.cloud, free.wish.cloud) == (False, True)
    assert [job.sampling.max_tokens for job in choices] == [25, 25]
    assert {job.deadline_ms for job in doors.jobs} == {60_000}


async def test_a_request_can_only_be_stricter_than_its_key(tmp_path):
    doors = FakeDoors()
    limits = {"min_tier": 3, "residency": ("eu",), "max_price_usd": 0.01}
    async with keyed(tmp_path, doors) as api, openai_client(api.url, await api.key(**limits)) as client:
        for mesh in (
            {},
            {"min_tier": 1, "residency": ["lab"], "max_price": 1},
            {"min_tier": 5, "residency": ["eu"], "max_price": 0},
        ):
            await client.chat.completions.create(**asking(**mesh))
    wishes = [(job.wish.min_tier, job.wish.residency, job.wish.max_price_usd) for job in doors.jobs]
    assert wishes == [(3, ("eu",), 0.01), (3, ("lab", "eu"), 0.01), (5, ("eu",), 0)]
    grant = Grant("a", "a", (Scope.CHAT,), (Profile(residency=("eu",)),))
    with pytest.raises(BadRequest, match="At most"):  # a peer would take it for nonsense
        allowed(grant, "auto", MeshOptions(residency=tuple(map(str, range(16)))))


@pytest.mark.parametrize(
    ("limits", "wanted", "param"),
    [
        ({"models": ("qwen3:*",)}, CHAT, "model"),
        ({"models": ("smollm2:135m",)}, {**CHAT, "model": "smollm2"}, "model"),
        ({"models": ("smollm2:135m",)}, {**CHAT, "model": "auto"}, "model"),
        ({"models": ("smollm2:135m",)}, {**CHAT, "model": " "}, "model"),
        ({"models": ("smollm2:135m",)}, {**CHAT, "model": "sha256:" + "0" * 64}, "model"),
        ({"cloud": False}, asking(route="cloud"), "mesh.route"),
        ({"max_tokens": 10}, {**CHAT, "max_tokens": 11}, "max_tokens"),
        ({"max_tokens": 10}, {**CHAT, "max_completion_tokens": 6, "n": 2}, "max_completion_tokens"),
        ({"max_tokens": 1}, {**CHAT, "n": 2}, "max_tokens"),
        (
            {"privacy": (Privacy.PUBLIC,)},
            {**CHAT, "extra_headers": {"x-mesh-privacy": "local"}},
            "mesh.privacy",
        ),
    ],
)
async def test_each_ceiling_is_named(tmp_path, limits, wanted, param):
    error = await refused(tmp_path, openai.PermissionDeniedError, wanted, **limits)
    assert error.param == param


async def test_names_are_compared_as_the_mesh_reads_them(tmp_path):
    doors = FakeDoors()
    models = ("SmolLM2:*", "auto:chat")
    async with keyed(tmp_path, doors) as api, openai_client(api.url, await api.key(models=models)) as client:
        for name in ("smollm2:135m", "SMOLLM2:135M@q4", "auto:chat"):
            await client.chat.completions.create(**{**CHAT, "model": name})
        assert [model.id async for model in client.models.list()] == ["smollm2:135m"]
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("hf/owner:8b")
    assert len(doors.jobs) == 3


async def test_the_settings_profile_and_the_keys_own_limits_both_hold(tmp_path):
    profile = NamedProfile(name="team", privacy=(Privacy.PUBLIC, Privacy.PRIVATE), max_tokens=20)
    doors = FakeDoors()
    async with keyed(tmp_path, doors, profiles=(profile,)) as api:
        key = await api.key(profile="team", privacy=(Privacy.PRIVATE, Privacy.LOCAL), max_tokens=30)
        async with openai_client(api.url, key) as client:
            await client.chat.completions.create(**CHAT, max_tokens=20)
            for wanted in (asking(privacy="public"), asking(privacy="local"), {**CHAT, "max_tokens": 21}):
                with pytest.raises(openai.PermissionDeniedError):
                    await client.chat.completions.create(**wanted)
    assert len(doors.jobs) == 1


async def test_a_key_opens_its_own_doors_only(tmp_path):
    doors = FakeDoors()
    async with keyed(tmp_path, doors) as api:
        async with openai_client(api.url, await api.key(scopes=(Scope.MODELS,))) as client:
            assert [model.id async for model in client.models.list()]
            for attempt in (
                client.chat.completions.create(**CHAT),
                client.embeddings.create(model="smollm2:135m", input="x"),
            ):
                with pytest.raises(openai.PermissionDeniedError, match="scope"):
                    await attempt
        async with openai_client(api.url, await api.key("b", scopes=(Scope.CHAT,))) as client:
            with pytest.raises(openai.PermissionDeniedError, match="models"):
                await client.models.retrieve("smollm2:135m")
    assert doors.jobs == []


def test_every_endpoint_is_a_door_that_is_named():
    """A path that is not is the operator's, so that nothing new is open by oversight."""
    app = build(FakeDoors())
    while not hasattr(app, "routes"):
        app = app._app
    paths = [route.path for route in app.routes]
    assert len(paths) > 4
    for path in paths:
        known = path in module.OPEN or is_page(path) or path.startswith((*SCOPES, *OPERATORS))
        assert known, path
    assert scope_of("/admin") is scope_of("/v1/secret") is Scope.ADMIN
    assert scope_of("/v1/chat/completions") is Scope.CHAT


async def test_over_its_rate_a_key_is_told_when_to_come_back(tmp_path):
    async with keyed(tmp_path, FakeDoors()) as api:
        slow, free = await api.key("slow", per_minute=2), await api.key("free")
        answers = [await status_of(api.url, slow) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 25 <= int(answers[2].headers["retry-after"]) <= 30
        assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert (await status_of(api.url, free)).status_code == 200  # each key has a measure of its own


def test_a_bucket_fills_with_time():
    grant = Grant("a", "a", (Scope.CHAT,), (Profile(per_minute=60), Profile(per_minute=2)))
    meter = module._Meter(0.0)
    for now, passes in (
        (0, True),
        (0, True),
        (29, False),
        (30, True),
        (30, False),
        (1000, True),
        (1000, True),
        (1000, False),
    ):
        try:
            meter.begin(grant, float(now))
        except module._Refused:
            assert not passes, now
        else:
            assert passes, now


async def test_requests_at_once_are_counted_and_a_place_comes_back(tmp_path):
    released = trio.Event()
    doors = FakeDoors([piece(0, "x"), released.wait, *HELLO])
    async with keyed(tmp_path, doors) as api:
        key = await api.key(concurrent=1)
        headers = {"authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(base_url=api.url, headers=headers) as client:
            body = request_body(stream=True)
            async with client.stream("POST", "/v1/chat/completions", json=body) as first:
                lines = first.aiter_lines()
                await anext(lines)
                second = await client.post("/v1/chat/completions", json=body)
                assert second.status_code == 429
                assert second.headers["retry-after"] == "1"
                released.set()
                assert [line async for line in lines][-2] == "data: [DONE]"
            while (third := await client.get("/v1/models")).status_code == 429:
                await trio.sleep(0.01)
            assert third.status_code == 200


async def test_the_body_of_a_refused_request_is_passed_over(tmp_path):
    body = json.dumps(request_body(x="y" * 500_000))
    headers = {"content-type": "application/json"}
    async with (
        keyed(tmp_path, FakeDoors(), require_key=True) as api,
        httpx2.AsyncClient(base_url=api.url) as client,
    ):
        assert (await client.post("/v1/chat/completions", content=body, headers=headers)).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
