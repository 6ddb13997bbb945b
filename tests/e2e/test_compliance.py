"""The API before judges that others wrote: llm-comply with the real model, schemathesis with a scripted one."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from meshnode.testing.processes import node_process
from tests.e2e.world import HANG_S, MODEL, surroundings
from tests.packages import fetched, with_packages

TOOLS = Path(__file__).with_name("compliance-tools.txt")
HOOKS = Path(__file__).with_name("openapi_hooks.py")
EXAMPLES = int(os.environ.get("MESHNODE_EXAMPLES", "12"))
JUDGING_S = max(240.0, 6.0 * EXAMPLES)
OPERATIONS = (
    *("createChatCompletion", "createCompletion", "createResponse", "createEmbedding"),
    *("listModels", "retrieveModel"),
)
CHECKS = (
    "not_a_server_error",
    "response_schema_conformance",
    "content_type_conformance",
    "a_refusal_has_openais_shape",
)
QUIET = (
    *("--phases", "fuzzing", "--mode", "all", "--generation-deterministic"),
    *("--suppress-health-check", "all", "--no-color"),
)
# The likeliest token each time: a drawn one can lead a model this small on until its context ends.
GREEDY = '[[prompts]]\nfamily = "smollm2"\ntemperature = 0\n'
PASSED = {"openai-chat": 7, "open-responses": 11}
IMAGES = {"chat-image-input", "image-input"}
THINKING = {"chat-reasoning-summary", "reasoning-summary"}  # skipped for want of a model that shows its own


async def judged(arguments: Sequence[str], **more: str) -> subprocess.CompletedProcess[bytes]:
    """What a tool says; it runs from the packages that only these tests use."""
    folder = await trio.to_thread.run_sync(fetched, TOOLS)
    with trio.fail_after(JUDGING_S):
        return await trio.run_process(
            [sys.executable, *arguments],
            env=with_packages(folder, **more),
            cwd=folder,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )


def by_status(results: Sequence[Mapping[str, Any]], status: str) -> dict[str, Mapping[str, Any]]:
    """The tests that ended so, by their names."""
    return {result["id"]: result for result in results if result["status"] == status}


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("kind", PASSED)
async def test_every_compliance_test_passes_but_for_images(
    kind: str, model_file: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(GREEDY)
    async with node_process(home, env=surroundings(MESHNODE_DISCOVER="false")) as node:
        with trio.fail_after(HANG_S):
            await node.until_ready()
        url = f"{await node.api_url()}/v1"
        command = ("-m", "llm_comply.cli", "--format", kind, "-u", url, "-k", "none", "-m", MODEL, "--json")
        done = await judged(command)
    told = json.loads(done.stdout)["results"]
    failed = by_status(told, "failed")
    assert failed.keys() <= IMAGES, failed
    assert all(result["errors"][0].startswith("HTTP 400") for result in failed.values()), failed
    assert by_status(told, "skipped").keys() <= THINKING
    assert len(by_status(told, "passed")) == PASSED[kind], told


@pytest.mark.slow
async def test_requests_made_from_openais_description_find_no_fault(tmp_path: Path) -> None:
    """Valid requests and broken ones, of every operation that there is.

    `MESHNODE_EXAMPLES=500` makes more, `MESHNODE_OPENAPI=FILE` takes another description than the tools bring along.
    """
    folder = await trio.to_thread.run_sync(fetched, TOOLS)
    described = os.environ.get("MESHNODE_OPENAPI", folder / "llm_comply" / "specs" / "openai_chat.json")
    statuses = tmp_path / "statuses.json"
    async with node_process(tmp_path / "home", ("--engine", "scripted"), env=surroundings()) as node:
        with trio.fail_after(HANG_S):
            await node.until_ready()
        options = ["--url", f"{await node.api_url()}/v1", "--checks", ",".join(CHECKS), "-n", str(EXAMPLES)]
        for operation in OPERATIONS:
            options += ["--include-operation-id", operation]
        command = ("-m", "schemathesis.cli", "run", str(described), *options, *QUIET)
        done = await judged(command, SCHEMATHESIS_HOOKS=str(HOOKS), STATUSES=str(statuses))
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    counted = json.loads(statuses.read_text())
    for path in ("/chat/completions", "/completions", "/responses", "/embeddings"):
        assert counted[f"{path} 200"] > 0, counted
        assert counted[f"{path} 400"] > 0, counted
    assert counted["/models 200"] > 0, counted
