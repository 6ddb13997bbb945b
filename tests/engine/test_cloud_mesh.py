"""Whole nodes with a commercial API behind one of them: when it is taken, when not, and what is said of it."""

from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
import pytest
import trio

from meshnode.api import app, server
from meshnode.errors import BudgetExceeded, Busy, EngineFailed, ModelNotFound, NoCandidate
from meshnode.node.run import NodeDoors
from meshnode.terms import CloudApi, CloudModel, Privacy
from tests.engine.fake_upstream import Reply, answer, delta, fake_upstream, streamed
from tests.node.small_mesh import MODEL, World, engine_of, text_of, until

PAID = "paid-model"


def api_at(url: str, name: str = "first", **facts) -> CloudApi:
    model = CloudModel(id=PAID, input_usd=1.0, output_usd=2.0, output=100, names=(MODEL,))
    base = {"monthly_usd": 10.0, "privacy": ("public", "private")}
    return CloudApi(name=name, url=url, models=(model,), **{**base, **facts})


@asynccontextmanager
async def payer(tmp_path, *facts, **replies):
    """A node with one API for each of `facts`, all at one scripted server; and that server."""
    world = World(tmp_path)
    with trio.fail_after(120):
        async with fake_upstream(**replies) as fake, AsyncExitStack() as stack:
            apis = [
                api_at(f"{fake.url}/{n}/v1" if n else fake.url, f"api{n}", **more)
                for n, more in enumerate(facts)
            ]
            for n in range(1, len(facts)):
                fake.replies[f"/{n}/v1/chat/completions"] = answer(f"from {n}")
            node = await stack.enter_async_context(world.node("a", cloud=tuple(apis)))
            yield world, stack, node, fake


async def asked(node, **wishes):
    async with node.ask("Hello?", **{"model": PAID, "deadline_s": 60.0, **wishes}) as running:
        return running.answer, await text_of(running)


async def test_a_model_that_the_mesh_does_not_have_comes_from_the_api_and_that_is_said(tmp_path):
    async with payer(tmp_path, {}) as (_, _, node, _fake):
        served, text = await asked(node)
        (view,) = node.snapshot().cloud
    assert text == "Hello there"
    assert (served.rung, served.served_by, served.model, served.trust) == ("cloud", "api0", PAID, "none")
    assert served.path[0].startswith("a#")
    assert served.path[1:] == ("api0",)
    assert (served.cloud.price.input_usd, served.cloud.price.output_usd) == (1.0, 2.0)
    assert view.spent_usd == pytest.approx(9e-6)


@pytest.mark.parametrize(
    ("facts", "wishes", "kind"),
    [
        ({"privacy": ("public",)}, {}, NoCandidate),
        ({}, {"privacy": Privacy.SENSITIVE}, NoCandidate),
        ({}, {"privacy": Privacy.LOCAL}, NoCandidate),
        ({}, {"place": "local"}, NoCandidate),
        ({}, {"place": "mesh"}, NoCandidate),
        ({}, {"max_price_usd": 1e-6}, NoCandidate),
        ({"request_usd": 1e-6}, {}, BudgetExceeded),
        ({"monthly_usd": 1e-6}, {}, BudgetExceeded),
        ({}, {"model": "nobody:1b"}, ModelNotFound),
    ],
)
async def test_what_must_not_go_there_does_not(tmp_path, facts, wishes, kind):
    async with payer(tmp_path, facts) as (_, _, node, fake):
        with pytest.raises(kind):
            await asked(node, **wishes)
        assert fake.asked == []


async def test_the_mesh_goes_first_and_is_come_back_to_by_itself(tmp_path):
    async with payer(tmp_path, {}) as (world, stack, a, fake):
        b = await stack.enter_async_context(world.node("b", engine="scripted"))
        await b.join(await a.invite())
        await until(lambda: any(not model.cloud for model in a.models()))
        assert (await asked(a, model=MODEL))[0].rung == "peer"
        assert fake.asked == []
        engine_of(b).refuse_next(Busy("full"))
        served, text = await asked(a, model=MODEL)
        assert (served.rung, served.attempts, text) == ("cloud", 2, "Hello there")
        assert (await asked(a, model=MODEL))[0].rung == "peer"
        engine_of(b).fail("broken for good")
        await until(lambda: all(model.cloud for model in a.models()))
        assert (await asked(a, model=MODEL))[0].rung == "cloud"


async def test_a_peer_gets_nothing_of_it(tmp_path):
    async with payer(tmp_path, {}) as (world, stack, a, fake):
        b = await stack.enter_async_context(world.node("b"))
        await b.join(await a.invite())
        await until(lambda: b.snapshot().links)
        await trio.sleep(1)
        assert b.models() == ()
        for wishes in ({}, {"place": "cloud"}):
            with pytest.raises(ModelNotFound):
                await asked(b, **wishes)
        assert fake.asked == []


@pytest.mark.parametrize(
    "reply", [Reply(429, [b"{}"]), Reply(500, [b"{}"]), Reply(401, [b"{}"]), Reply(404, [b"{}"])]
)
async def test_the_next_api_is_tried_before_a_byte_is_told(tmp_path, reply):
    async with payer(tmp_path, {}, {}, chat=reply) as (_, _, node, _fake):
        served, text = await asked(node)
        assert (served.served_by, served.attempts, text) == ("api1", 2, "from 1")
        spent = {view.name: view.spent_usd + view.assumed_usd for view in node.snapshot().cloud}
    assert spent["api0"] == 0.0
    assert spent["api1"] > 0.0


async def test_the_next_api_is_tried_when_one_has_no_budget(tmp_path):
    async with payer(tmp_path, {"monthly_usd": 1e-6}, {}) as (_, _, node, fake):
        assert (await asked(node))[0].served_by == "api1"
        assert [one.path for one in fake.asked] == ["/1/v1/chat/completions"]


async def test_an_answer_that_broke_off_does_not_go_on_elsewhere(tmp_path):
    broken = streamed(delta(content="a"), cut=True)
    async with payer(tmp_path, {}, {}, chat=broken) as (_, _, node, fake):
        with pytest.raises(Exception, match="broke off"):
            await asked(node)
        assert len([one for one in fake.asked if one.method == "POST"]) == 1


async def test_the_budget_is_there_after_a_restart(tmp_path):
    world = World(tmp_path)
    async with fake_upstream() as fake:
        for spent in (9e-6, 18e-6):
            async with world.node("a", cloud=(api_at(fake.url),)) as node:
                await asked(node)
                assert node.snapshot().cloud[0].spent_usd == pytest.approx(spent)


@asynccontextmanager
async def http(node):
    """A client of the node's API."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        serve = app.build(NodeDoors(node))
        url = await nursery.start(lambda task_status: server.serve(
            serve, host="127.0.0.1", port=0, shutdown=stop, task_status=task_status
        ))  # fmt: skip
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            yield client
        stop.set()


def body(**more):
    return {"model": PAID, "messages": [{"role": "user", "content": "Hello?"}], **more}


async def test_headers_tell_who_served_and_what_it_costs(tmp_path):
    async with payer(tmp_path, {}) as (_, _, node, _fake), http(node) as client:
        whole = await client.post("/v1/chat/completions", json=body())
        streamed_one = await client.post("/v1/chat/completions", json=body(stream=True))
        listed = (await client.get("/v1/models")).json()["data"]
    for response in (whole, streamed_one):
        told = {name.removeprefix("x-mesh-"): value for name, value in response.headers.items()}
        assert (told["rung"], told["served-by"], told["model"]) == ("cloud", "api0", PAID)
        assert told["price-per-million-usd"] == "1 in, 2 out"
        assert 0 < float(told["price-most-usd"]) < 0.01
    assert float(whole.headers["x-mesh-price-usd"]) == pytest.approx(9e-6)
    assert "x-mesh-price-usd" not in streamed_one.headers
    assert [(one["id"], one["mesh"]["cloud"]) for one in listed] == [(PAID, "api0")]


@pytest.mark.parametrize(
    ("facts", "reply", "mesh", "status", "code"),
    [
        ({}, Reply(429, [b"{}"], headers={"retry-after": "9"}), {}, 429, "busy"),
        ({}, Reply(500, [b"{}"]), {}, 503, "engine_failed"),
        ({}, Reply(401, [b"{}"]), {}, 503, "engine_failed"),
        ({}, Reply(400, [b'{"error":{"message":"bad schema"}}']), {}, 400, "invalid_request"),
        ({"monthly_usd": 0.0}, answer("x"), {}, 402, "budget_exceeded"),
        ({}, answer("x"), {"max_price": 0}, 503, "no_candidate"),
    ],
)
async def test_a_refusal_is_a_status_also_of_a_stream(tmp_path, facts, reply, mesh, status, code):
    async with payer(tmp_path, facts, chat=reply) as (_, _, node, _fake), http(node) as client:
        response = await client.post("/v1/chat/completions", json=body(stream=True, mesh=mesh))
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    if status == 429:
        assert response.headers["retry-after"] == "9"


async def test_all_apis_that_fail_are_one_error(tmp_path):
    async with payer(tmp_path, {}, {}, chat=Reply(500, [b"{}"])) as (_, _, node, fake):
        fake.replies["/1/v1/chat/completions"] = Reply(503, [b"{}"])
        with pytest.raises(EngineFailed):
            await asked(node)
