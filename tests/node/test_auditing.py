"""The audit log of whole nodes: what leaves has its line first, others remember its head, headers say the same."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from meshnode import Node
from meshnode.api.app import build
from meshnode.control.audit import verify_log
from meshnode.control.endorse import EndorseArguments
from meshnode.errors import HomeUnusable, MeshError, NoCandidate
from meshnode.mesh.witness import head_in
from meshnode.node.auditing import sent
from meshnode.node.run import NodeDoors
from meshnode.observe.segments import FOLDER
from meshnode.seams import Seams, inline
from meshnode.terms import Privacy
from meshwire.ids import NodeId, to_text
from meshwire.records import RecordType
from tests.node.small_mesh import MODEL, World, engine_of, text_of, until
from tests.routing.offers import job, offer
from tests.routing.test_cloud import api

SEAMS = Seams(blocking=inline)


def lines(node: Node) -> list[dict[str, Any]]:
    files = sorted((node.config.home / FOLDER).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


async def report_on(node: Node) -> Any:
    return await verify_log(node.config.home, (await node.trust.heads()).own, SEAMS)


async def asked(node: Node, **wishes: Any) -> tuple[str, str]:
    async with node.ask("a secret question", model=MODEL, max_tokens=2, **wishes) as running:
        return running.answer.trust, await text_of(running)


async def test_what_leaves_has_its_line_and_what_stays_has_none(world: World) -> None:
    async with AsyncExitStack() as stack:
        a, b, c = await world.line(stack)
        await asked(a)
        await asked(a, privacy=Privacy.PUBLIC)
        await asked(c)
        with pytest.raises(NoCandidate):
            await asked(a, privacy=Privacy.SENSITIVE)
        with pytest.raises(MeshError):
            await asked(a, privacy=Privacy.LOCAL)
        first, second, third, fourth = lines(a)
        assert (first["decision"], first["class"], first["rung"], first["trust"]) == (
            "sent",
            "private",
            "trusted",
            "trusted",
        )
        assert first["where"] == to_text(c.identity.node)
        assert first["path"] == [to_text(b.identity.node), to_text(c.identity.node)]
        assert first["weights"] == engine_of(c).cards[0].digest.hex()
        assert first["reason"] == "private needs trusted"
        assert (second["class"], second["reason"]) == ("public", "public needs member")
        assert (third["decision"], third["class"]) == ("refused", "sensitive")
        assert third["reason"] == "no_candidate: 1 × not trusted enough for the privacy class"
        assert (fourth["decision"], fourth["class"], "model" in fourth) == ("refused", "local", False)
        assert "secret" not in json.dumps(lines(a))
        assert lines(b) == lines(c) == []
        assert (await report_on(a)).intact


async def test_nothing_leaves_without_its_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        engine = engine_of(c)
        await asked(a)
        (finished,) = engine.finished_jobs
        monkeypatch.setattr("meshnode.observe.segments.os.write", _full)
        with pytest.raises(HomeUnusable, match="audit log"):
            await asked(a)
        assert (engine.finished_jobs, engine.cancelled_jobs) == ([finished], [])
        monkeypatch.undo()
        await asked(a)
        assert [line["n"] for line in lines(a)] == [1, 2]


async def test_nothing_comes_back_before_its_line_is_on_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        a, _, _ = await world.line(stack)
        await asked(a)
        monkeypatch.setattr("meshnode.observe.segments.os.fsync", _full)
        with pytest.raises(HomeUnusable, match="audit log"):
            await asked(a)
        assert [line["n"] for line in lines(a)] == [1, 2]  # it went, and so its line stays


def _full(_descriptor: int, _data: bytes = b"") -> int:
    raise OSError(28, "No space left on device")


async def test_an_owner_may_do_without(world: World) -> None:
    async with world.node("a", audit=False) as a, world.node("b", engine="scripted") as b:
        await b.join(await a.invite())
        await until(a.models)
        await asked(a)
        assert not (a.config.home / FOLDER).exists()


async def test_others_remember_the_head_over_their_own_restart(world: World) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(world.node("a"))
        async with world.node("b", engine="scripted") as b:
            await b.join(await a.invite())
            await until(a.models)
            for _ in range(3):
                await asked(a)
            await until(lambda: remembered(b, a) == 3)
            record = b.presence.book.get(a.identity.node, RecordType.VITALS) if b.presence else None
            assert record is not None
            assert head_in(record) == a.audit.end
        async with world.node("b", engine="scripted") as b:
            assert remembered(b, a) == 3
            await until(lambda: b.snapshot().links)
            (head,) = (await a.trust.heads()).own
            assert head.by == to_text(b.identity.node)
            assert (await report_on(a)).remembered == 1


def remembered(node: Node, other: Node) -> int:
    assert node.presence is not None
    points = [head_in(one) for one in node.presence.papers.witness.all() if one.owner == other.identity.node]
    return max((point.n for point in points if point is not None), default=0)


async def test_a_disk_set_back_is_found_out_by_what_the_neighbours_remember(
    world: World, tmp_path: Path
) -> None:
    import shutil

    async with world.node("b", engine="scripted") as b:
        async with world.node("a") as a:
            await b.join(await a.invite())
            await until(a.models)
            await asked(a)
        shutil.copytree(a.config.home, tmp_path / "kept")
        async with world.node("a") as a:
            await until(a.models)
            await asked(a)
            await asked(a)
            await until(lambda: remembered(b, a) == 3)
        shutil.rmtree(a.config.home)
        shutil.copytree(tmp_path / "kept", a.config.home)
        async with world.node("a") as a:
            await until(lambda: a.snapshot().links)
            assert (await verify_log(a.config.home, (), SEAMS)).intact
            report = await report_on(a)
            assert (report.bad.line, "remembers is line 3" in report.bad.why) == (2, True), report
            await asked(a)
            await until(lambda: a.audit.end.n == 2)
            await trio.sleep(5)
            assert remembered(b, a) == 3  # it is not forgotten for the new one


async def test_headers_and_log_say_the_same_of_trust_and_rung(world: World) -> None:
    import httpx2

    async with AsyncExitStack() as stack:
        a, _, c = await world.line(stack)
        await a.trust.endorse(EndorseArguments("c", weights=("any",)))
        transport = httpx2.ASGITransport(app=build(NodeDoors(a)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8420") as client:
            await until(lambda: trusts(a, c) == "ENDORSED")
            for privacy in ("public", "private"):
                body = {"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}
                response = await client.post(
                    "/v1/chat/completions", json=body | {"mesh": {"privacy": privacy}}
                )
                assert response.status_code == 200
                line, headers = lines(a)[-1], response.headers
                assert headers["x-request-id"] == line["request"]
                assert (headers["x-mesh-trust"], headers["x-mesh-rung"]) == (line["trust"], "peer")
                assert headers["x-mesh-trust"] == "endorsed"
                assert line["class"] == privacy


def trusts(node: Node, other: Node) -> str:
    assert node.presence is not None
    (candidate,) = [one for one in node.presence.candidates() if one.node == other.identity.node]
    return candidate.trust.name


def test_a_commercial_api_is_named_as_what_it_is() -> None:
    line = sent(job(), api())
    assert (line.rung, line.where, line.path) == ("cloud", "openai", ())
    line = sent(job(), offer(1))
    assert (line.rung, line.where) == ("trusted", to_text(NodeId(offer(1).node)))
