"""Paths, methods, models, and who may speak to the API at all."""

import json

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshnode.api.app import Rules, build
from meshnode.api.guard import BODY_MAX
from meshnode.serve.readiness import Readiness
from tests.api.fakes import FakeDoors, chat, request_body

BASE = "http://127.0.0.1:8420"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def client():
    transport = httpx2.ASGITransport(app=build(FakeDoors(), Rules(hosts=("box.lan", "fd00::1"))))
    async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
        yield client


def error_of(response):
    error = response.json()["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    return error


async def test_health_is_there_while_the_model_loads(client):
    response = await client.get("/healthz")
    assert response.json() == {"status": "ok", "state": "loading"}


@pytest.mark.parametrize(
    ("given", "kept"), [(TRACEPARENT, TRACEPARENT), ("rubbish", ""), (TRACEPARENT + "-more", ""), ("", "")]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_a_traceparent_goes_into_the_job_if_it_is_one(doors_and_client, path, given, kept):
    doors, client = doors_and_client
    body = request_body(n=2) if path.endswith("completions") else {"model": "auto", "input": "sea"}
    await client.post(path, json=body, headers={"traceparent": given})
    assert {job.trace for job in doors.jobs} == {kept}


@pytest.fixture
async def doors_and_client():
    doors = FakeDoors()
    transport = httpx2.ASGITransport(app=build(doors))
    async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
        yield doors, client


async def test_readiness_is_a_status_with_its_reasons(doors_and_client):
    doors, client = doors_and_client
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["by"] == "local"
    doors.ready = Readiness(ready=False, code="busy", reasons=("full",), retry_after_s=1.2)
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert response.json() == {
        "ready": False,
        "by": "",
        "code": "busy",
        "reasons": ["full"],
        "retry_after_s": 1.2,
    }
    assert (await client.get("/healthz")).status_code == 200


async def test_readiness_can_be_asked_for_a_model_and_a_class(doors_and_client):
    doors, client = doors_and_client
    await client.get("/readyz?model=smollm2:135m&privacy=public")
    assert [(wish.model, wish.privacy) for wish in doors.wishes] == [("smollm2:135m", "public")]
    for query in ("privacy=secret", "modell=x", f"model={'x' * 257}"):
        response = await client.get(f"/readyz?{query}")
        assert response.status_code == 400
        assert error_of(response)["param"] in ("privacy", "modell", "model")
    assert len(doors.wishes) == 1


async def test_metrics_are_in_prometheus_text_format_whatever_the_client_accepts(client):
    for accept in (
        "",
        "application/openmetrics-text; version=1.0.0",
        "text/plain;version=x;escaping=y",
        "*/*",
    ):
        response = await client.get("/metrics", headers={"accept": accept})
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        families = {family.name for family in text_string_to_metric_families(response.text)}
        assert {"meshnode_requests", "meshnode_build_info"} <= families


async def test_models_are_listed_and_found_by_name(client):
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["smollm2:135m", "hf/owner:8b"]
    assert all(model["object"] == "model" and model["owned_by"] for model in listed["data"])
    for name in ("smollm2:135m", "hf/owner:8b"):
        found = (await client.get(f"/v1/models/{name}")).json()
        assert found in listed["data"]
        assert found["mesh"]["name"] == name


async def test_an_unknown_model_is_404_in_openais_shape(client):
    response = await client.get("/v1/models/gpt-4")
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/frob", 404, "not_found"),
        ("GET", "/dashboard", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/smollm2:135m", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/healthz/", 404, "not_found"),
    ],
)
async def test_wrong_paths_and_methods_answer_in_the_same_shape(client, method, path, status, code):
    response = await client.request(method, path)
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert (status != 405) or response.headers["allow"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8420", "localhost", "LOCALHOST:1", "[::1]:8420", "box.lan:8420", "[fd00::1]"]
)
async def test_our_own_names_are_answered(client, host):
    for path in ("/v1/models", "/metrics", "/readyz"):
        assert (await client.get(path, headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8420", "", "127.0.0.1.evil.example", "localhost.", "[::1]x", "127.0.0.2", "box.lan@evil"],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/readyz"])
async def test_other_names_are_refused(client, path, host):
    response = await client.get(path, headers={"host": host})
    assert response.status_code == 403
    assert error_of(response)["code"] == "origin_not_allowed"


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8420", "http://127.0.0.1:8420".upper()])
async def test_our_own_page_may_call(client, origin):
    response = await client.post("/v1/chat/completions", json=request_body(), headers={"origin": origin})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8420", ""]
)
async def test_other_pages_may_not(client, origin):
    response = await client.post("/v1/chat/completions", json=request_body(), headers={"origin": origin})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_only_plain_json_is_read(client, headers):
    response = await client.post("/v1/chat/completions", content=json.dumps(request_body()), headers=headers)
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"


async def test_a_charset_is_fine(client):
    headers = {"content-type": "application/json; charset=utf-8"}
    response = await client.post("/v1/chat/completions", content=json.dumps(request_body()), headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_bound_is_413(client, declared):
    async def parts():
        for _ in range(2):
            yield b" " * (BODY_MAX // 2 + 1)

    content = b" " * (BODY_MAX + 1) if declared else parts()
    headers = {"content-type": "application/json"}
    response = await client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"


async def test_bad_requests_name_the_field(client):
    response = await client.post("/v1/chat/completions", json=request_body(tools=[{}]))
    assert response.status_code == 400
    assert error_of(response)["param"] == "tools[0].type"
    assert error_of(response)["type"] == "invalid_request_error"
    assert response.headers["x-request-id"]


async def test_a_websocket_is_closed_at_once():
    sent = []

    async def send(message):
        sent.append(message)

    await build(FakeDoors())({"type": "websocket", "path": "/", "headers": []}, chat()._receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_what_fails_unforeseen_says_nothing_of_the_inside():
    class Broken(FakeDoors):
        def snapshot(self):
            raise KeyError("inner secret")

    transport = httpx2.ASGITransport(app=build(Broken()), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url=BASE) as client:
        response = await client.get("/healthz")
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal_error"
    assert "secret" not in response.text
