"""A node process as those who run it see it: ready when it answers, its metrics, and the line of a request."""

import json
from pathlib import Path

import httpx2
import trio
from prometheus_client.parser import text_string_to_metric_families

from meshnode.testing.processes import LOG_FILE, node_process


async def test_ready_metrics_and_the_line_of_a_request(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with trio.fail_after(60):
        async with node_process(home, ("--engine", "scripted")) as node, httpx2.AsyncClient() as client:
            await node.event("ready")
            url = await node.api_url()
            assert (await client.get(f"{url}/readyz")).json()["by"] == "local"
            missing = await client.get(f"{url}/readyz", params={"model": "qwen3:8b"})
            assert (missing.status_code, missing.json()["code"]) == (503, "model_not_found")
            body = {"model": "auto", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 5}
            answered = await client.post(f"{url}/v1/chat/completions", json=body)
            exposed = ""
            while (
                "meshnode_requests_total{" not in exposed
            ):  # it is counted once it is left, after its last byte
                exposed = (await client.get(f"{url}/metrics")).text
    samples = [one for family in text_string_to_metric_families(exposed) for one in family.samples]
    requests = [(one.labels, one.value) for one in samples if one.name == "meshnode_requests_total"]
    assert requests == [({"rung": "local", "outcome": "ok"}, 1.0)]
    lines = [json.loads(line) for line in (home / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    (over,) = [line for line in lines if line["event"] == "request over"]
    assert over["request"] == answered.headers["x-request-id"]
    assert (over["outcome"], over["tokens"], over["trace"]) == ("ok", 5, "")
