"""The dashboard's page and its endpoints: what they show, and who may see it."""

import json
import re

import httpx2
import pytest
import trio

from meshnode.api.app import Rules, build
from meshnode.api.dashboard.page import Page
from meshnode.observe import log
from meshnode.observe.tail import TAIL
from meshnode.terms import Job, Privacy, Wish
from meshnode.terms.profile import Scope
from tests.api.fakes import ANSWER, FakeDoors
from tests.api.keyed import keyed

BASE = "http://127.0.0.1:8420"
ELSEWHERE = "https://chat.example"


@pytest.fixture
def doors():
    return FakeDoors()


def client_of(doors, client=("127.0.0.1", 5), base=BASE, **rules):
    transport = httpx2.ASGITransport(app=build(doors, Rules(**rules)), client=client)
    return httpx2.AsyncClient(transport=transport, base_url=base)


def course_of(doors, identifier="req-1", origin="", privacy=Privacy.PUBLIC):
    job = Job(id=identifier, wish=Wish(model="smollm2:135m", privacy=privacy), turns=())
    return doors.recent.began(job, trio.current_time(), origin)


# --- The page ---


async def test_the_page_fetches_nothing_from_elsewhere_and_may_not(doors):
    async with client_of(doors) as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        parts = re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
        assert len(parts) >= 3
        for path in parts:
            assert (await client.get(path)).status_code == 200, path
        for name in Page()._files:
            text = (await client.get(f"/dashboard/{name}")).text
            assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text), name
            assert "innerHTML" not in text, name
            assert not re.search(r"<[^>]+\s(on[a-z]+|style)=", text), name
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_what_a_script_imports_is_there(doors):
    files = Page()._files
    scripts = {name: file.content.decode() for name, file in files.items() if name.endswith(".js")}
    imported = {part for text in scripts.values() for part in re.findall(r'from "\./([^"]+)"', text)}
    assert imported
    assert imported <= scripts.keys()


async def test_an_unchanged_part_is_not_sent_again(doors):
    async with client_of(doors) as client:
        first = await client.get("/dashboard/main.js")
        again = await client.get("/dashboard/main.js", headers={"if-none-match": first.headers["etag"]})
        other = await client.get("/dashboard/dom.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert other.status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "page.py", "..%2fpage.py", "../page.py", "%2e%2e/page.py"])
async def test_there_is_nothing_else_to_be_had(doors, name):
    async with client_of(doors) as client:
        assert (await client.get(f"/dashboard/{name}")).status_code == 404


# --- What it shows ---


async def test_the_state_has_the_node_and_its_requests(doors):
    course_of(doors, "req-1")
    course = course_of(doors, "req-2", privacy=Privacy.LOCAL)
    course.answer = ANSWER
    course.token(3, trio.current_time() + 0.25)
    course_of(doors, "far-1", origin="abcd")
    async with client_of(doors) as client:
        seen = (await client.get("/admin/state")).json()
    assert seen["snapshot"]["name"] == "desk"
    far, second, first = seen["requests"]
    assert (far["origin"], far["state"]) == ("abcd", "waiting")
    assert (second["state"], second["tokens"], second["first_token_ms"]) == ("streaming", 3, 250)
    assert (second["rung"], second["path"], second["privacy"]) == ("peer", ["desk", "attic"], "local")
    assert (first["state"], first["over"], first["first_token_ms"]) == ("choosing", False, None)


async def test_the_log_comes_line_by_line_without_what_is_withheld(doors):
    (*_, last) = TAIL.after(0) or (None,)
    begin = last.n if last else 0
    log.get("test").warning("something", prompt="the secret question", peer="attic")
    async with client_of(doors) as client:
        answer = await client.get(f"/admin/state?after={begin}")
        (line,) = [one for one in answer.json()["log"] if one["fields"]["event"] == "something"]
        assert line["fields"]["peer"] == "attic"
        assert "secret question" not in answer.text
        later = (await client.get(f"/admin/state?after={line['n']}")).json()["log"]
        assert all(one["n"] > line["n"] for one in later)
        for bad in ("x", "-1", "9" * 16, "²"):
            refused = await client.get("/admin/state", params={"after": bad})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


async def test_a_request_has_its_decision_and_others_have_none(doors):
    course_of(doors, "req-1")
    course_of(doors, "far-1", origin="abcd")
    async with client_of(doors) as client:
        decision = (await client.get("/admin/requests/req-1")).json()
        assert decision["model"] == "smollm2:135m"
        assert decision["candidates"][0]["place"] == 1
        assert (await client.get("/admin/requests/far-1")).status_code == 404
        assert (await client.get("/admin/requests/none")).status_code == 404


async def test_an_invitation_is_text_and_a_square_of_modules(doors):
    pytest.importorskip("segno", reason="segno draws the code")
    async with client_of(doors) as client:
        made = (await client.post("/admin/invite", json={"expires_s": 600})).json()
    assert doors.invited == [600]
    assert made["ticket"].startswith("mesh1")
    assert {len(row) for row in made["qr"]} == {len(made["qr"])}
    assert made["qr"][0].startswith("11111110")  # the corner by which readers find it


# --- Who may see it ---


@pytest.mark.parametrize("path", ["/admin/state", "/admin/requests/req-1"])
@pytest.mark.parametrize(
    "headers",
    [{"origin": ELSEWHERE}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}],
)
async def test_other_pages_see_nothing_even_those_that_may_ask(doors, path, headers):
    course_of(doors, "req-1")
    async with client_of(doors, origins=(ELSEWHERE,)) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        assert (await client.get(path, headers=headers)).status_code == 403
        assert (
            await client.get(path, headers={"origin": BASE, "sec-fetch-site": "same-origin"})
        ).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": ELSEWHERE},
        {"sec-fetch-site": "cross-site"},
        {"x-forwarded-for": "192.0.2.7"},
        {"forwarded": "for=192.0.2.7"},
        {"host": "192.168.1.5:8420"},
    ],
)
async def test_no_page_from_elsewhere_and_no_proxy_gets_an_invitation(doors, headers):
    async with client_of(doors, origins=(ELSEWHERE,), public=True) as client:
        refused = await client.post("/admin/invite", json={}, headers=headers)
    assert refused.status_code == 403
    assert doors.invited == []


@pytest.mark.parametrize("client", ["192.0.2.7", "fd00::1", "::ffff:192.0.2.7", "testclient"])
async def test_no_other_machine_gets_an_invitation(doors, client):
    async with client_of(doors, (client, 5)) as asking:
        assert (await asking.post("/admin/invite", json={})).status_code == 403
    assert doors.invited == []


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"expires_s": 59}', 400), (b'{"labels": []}', 400), (b"[", 400), (b"\xff", 400)],
)
async def test_a_bad_invitation_is_refused(doors, body, status):
    async with client_of(doors) as client:
        kind = {"content-type": "application/json"}
        assert (await client.post("/admin/invite", content=body, headers=kind)).status_code == status
        form = {"content-type": "text/plain"}
        assert (await client.post("/admin/invite", content=b"{}", headers=form)).status_code == 415
    assert doors.invited == []


async def test_with_keys_the_page_is_there_and_what_it_shows_needs_the_operators(tmp_path, doors):
    async with (
        keyed(tmp_path, doors, require_key=True) as api,
        httpx2.AsyncClient(base_url=api.url) as client,
    ):
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/dashboard/main.js")).status_code == 200
        chat, admin = await api.key("chat"), await api.key("admin", scopes=(Scope.ADMIN,))
        for key, status in (("", 401), (chat, 403), (admin, 200)):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            assert (await client.get("/admin/state", headers=headers)).status_code == status
        assert (await client.post("/admin/invite", json={})).status_code == 401


async def test_a_page_that_looks_with_a_key_does_not_fill_the_log(tmp_path, doors, monkeypatch):
    lines = []
    monkeypatch.setattr("meshnode.observe.log.TAIL.keep", lambda fields: lines.append(dict(fields)))
    log.configure(wall=lambda: 0.0, out=None, level="info")
    try:
        async with (
            keyed(tmp_path, doors, require_key=True) as api,
            httpx2.AsyncClient(base_url=api.url) as client,
        ):
            admin = await api.key("admin", scopes=(Scope.ADMIN,))
            headers = {"authorization": f"Bearer {admin}"}
            await client.get("/admin/state", headers=headers)
            await client.get("/metrics", headers=headers)
    finally:
        log.configure(wall=lambda: 0.0, level="warning")
    assert [line["path"] for line in lines if line["event"] == "request"] == ["/metrics"]
    json.dumps(lines)
