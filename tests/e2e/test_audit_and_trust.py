"""The audit log and the operator's word at the command line, with real node processes that come and go."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import trio

from meshnode.cli import exits
from meshnode.testing.processes import NodeProcess, node_process
from tests.cli.published import validator, verb_of
from tests.e2e.world import HANG_S, has_model, join, surroundings

BODY = {
    "model": "scripted:tiny",
    "max_tokens": 3,
    "messages": [{"role": "user", "content": "a secret question"}],
}


@asynccontextmanager
async def two(root: Path) -> AsyncIterator[tuple[NodeProcess, NodeProcess]]:
    """A, which founds, and B, which has the scripted engine."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(node(root, "A", "none"))
        b = await stack.enter_async_context(node(root, "B", "scripted"))
        with trio.fail_after(HANG_S):
            await a.mesh_address()
            await join(b, a, via=a)
            await a.until(has_model)
        yield a, b


def node(root: Path, name: str, engine: str, *more: str) -> Any:
    return node_process(root / name, ("--name", name, "--engine", engine, *more), env=surroundings())


async def meshnode(home: Path, *words: str, code: int = 0) -> list[dict[str, Any]]:
    """What a verb prints as JSON."""
    command = [sys.executable, "-m", "meshnode.cli.main", *words, "--json", "--home", str(home)]
    ran = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, env=surroundings()
    )
    assert ran.returncode == code, ran.stdout.decode() + ran.stderr.decode()
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    for line in lines:
        validator(verb_of(words)).validate(line)
    return lines


async def asked(node: NodeProcess, status: int = 200, **mesh: Any) -> httpx2.Headers:
    model = (await node.until(has_model)).models[0].name
    async with httpx2.AsyncClient(trust_env=False, timeout=HANG_S) as http:
        url = f"{await node.api_url()}/v1/chat/completions"
        response = await http.post(url, json=BODY | {"model": model, "mesh": mesh})
    assert response.status_code == status, response.text
    return response.headers


async def test_the_log_of_a_real_request_is_checked_read_and_held_by_others(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        headers = await asked(a)
        await asked(a, status=503, privacy="sensitive")
        request = headers["x-request-id"]
        (line,) = await meshnode(a.home, "audit", "show", request)
        assert (line["decision"], line["class"], line["trust"]) == (
            "sent",
            "private",
            headers["x-mesh-trust"],
        )
        assert headers["x-mesh-rung"] == "peer"
        assert [one["decision"] for one in await meshnode(a.home, "audit", "tail")] == ["sent", "refused"]
        (log,) = (a.home / "audit").glob("*.jsonl")
        assert b"secret" not in log.read_bytes()
        with trio.fail_after(HANG_S):
            while (report := (await meshnode(a.home, "audit", "verify"))[0])["remembered"] != 1:
                await trio.sleep(0.5)
        assert (report["intact"], report["last"]) == (True, 2)
        heads = await meshnode(b.home, "audit", "heads")
        kept = tmp_path / "heads.json"
        kept.write_text("".join(json.dumps(one) + "\n" for one in heads))
    raw = log.read_bytes()
    for harm, where in ((raw[:200] + b"#" + raw[201:], 1), (raw[:-30], 2), (raw.splitlines(True)[0], 2)):
        log.write_bytes(harm)
        report, error = await meshnode(a.home, "audit", "verify", code=exits.TABLE["audit_broken"])
        assert (report["intact"], report["bad"]["line"]) == (False, where)
        assert error["error"]["code"] == "audit_broken"
    log.write_bytes(raw)
    (report,) = await meshnode(a.home, "audit", "verify", "--heads", str(kept))
    assert (report["intact"], report["remembered"]) == (True, 1)


async def test_a_node_that_is_killed_goes_on_with_its_log(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        await asked(a)
        a.kill()
        await a.process.wait()
        async with node(tmp_path, "A", "none", "--bootstrap", await b.mesh_address()) as again:
            with trio.fail_after(HANG_S):
                await again.mesh_address()
                await again.until(has_model)
            await asked(again)
            (report,) = await meshnode(again.home, "audit", "verify")
            assert (report["intact"], report["last"]) == (True, 2)


async def test_members_are_listed_endorsed_renewed_and_revoked(tmp_path: Path) -> None:
    async with two(tmp_path) as (a, b):
        await asked(a, status=503, privacy="sensitive", residency=["eu"])
        (made,) = await meshnode(a.home, "trust", "endorse", "B", "--label", "eu")
        assert (made["trust"], made["by"], made["labels"]) == ("endorsed", "root", ["trusted", "eu"])
        with trio.fail_after(HANG_S):
            headers = await asked(a, privacy="sensitive", residency=["eu"])
        assert headers["x-mesh-trust"] == "endorsed"
        rows = {row["name"]: row for row in await meshnode(b.home, "trust", "list")}
        assert (rows["A"]["roles"], rows["B"]["trust"], rows["B"]["this"]) == (
            ["issuer", "member"],
            "endorsed",
            True,
        )
        assert {one["name"] for one in await meshnode(a.home, "trust", "renew")} == {"A", "B"}
        await meshnode(b.home, "trust", "revoke", "A", code=exits.TABLE["not_allowed"])
        await meshnode(a.home, "trust", "revoke", "nobody", code=exits.USAGE)
        await meshnode(a.home, "trust", "revoke", "A", code=exits.USAGE)
        (gone,) = await meshnode(a.home, "trust", "revoke", "B")
        assert gone["name"] == "B"
        with trio.fail_after(15):
            await a.until(lambda seen: not seen.links)
        assert (await meshnode(a.home, "trust", "list"))[1]["state"] == "revoked"


async def test_the_root_key_goes_to_another_device_under_a_passphrase(tmp_path: Path) -> None:
    words, wrong, sealed = tmp_path / "words", tmp_path / "wrong", tmp_path / "root.json"
    words.write_text("correct horse battery\n")
    wrong.write_text("correct horse bettery\n")
    async with two(tmp_path) as (a, b):
        take = ("--passphrase-file", str(words))
        await meshnode(
            b.home, "trust", "export-root", str(tmp_path / "x"), *take, code=exits.TABLE["not_allowed"]
        )
        await meshnode(a.home, "trust", "export-root", str(sealed), *take)
        assert sealed.stat().st_mode & 0o777 == 0o600
        spoilt = ("--passphrase-file", str(wrong))
        await meshnode(b.home, "trust", "restore-root", str(sealed), *spoilt, code=exits.TABLE["not_allowed"])
        (restored,) = await meshnode(b.home, "trust", "restore-root", str(sealed), *take)
        assert restored["running"] is True
        a.kill()
        with trio.fail_after(HANG_S):
            assert (await b.invite()).startswith("mesh1")
