"""What the README shows, run: its Python blocks as they stand, its commands looked up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from meshnode.cli.program import program
from meshnode.testing.processes import node_process

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


async def run_block(code: str, env: dict[str, str]) -> str:
    """What the block prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **env}
    done = await trio.run_process(
        [sys.executable, "-c", code], env=environment, capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_the_client_block_gets_an_answer_from_a_node(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if "OpenAI(" in block]
    with trio.fail_after(60):
        async with node_process(tmp_path / "home", ("--engine", "scripted")) as node:
            await node.event("ready")
            url = await node.api_url()
            assert "http://127.0.0.1:8420" in block
            printed = await run_block(block.replace("http://127.0.0.1:8420", url), {})
    assert len(printed.split()) >= 10


async def test_the_library_block_answers_from_a_node_of_its_own(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if "open_node" in block]
    env = {
        "MESHNODE_HOME": str(tmp_path / "home"),
        "MESHNODE_ENGINE": "scripted",
        "MESHNODE_MESH_HOST": "127.0.0.1",
        "MESHNODE_MESH_PORT": "0",
    }
    with trio.fail_after(60):
        printed = await run_block(block, env)
    assert len(printed.split()) >= 10


def test_no_python_block_is_left_out() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("script", sorted(set(re.findall(r"scripts/[a-z]+", README)) - {"scripts/bench"}))
def test_every_script_named_can_be_run(script: str) -> None:
    path = ROOT / script
    assert path.is_file()
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"`meshnode ([a-z]+)", README))))
def test_every_verb_named_is_one(verb: str) -> None:
    assert verb in program.commands


async def test_the_simulation_guide_runs(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "simulate.md").read_text(encoding="utf-8")
    block, hostile, own, *tests = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(tests) == 2  # run by tests/testing/test_plugin.py
    with trio.fail_after(60):
        assert (await run_block(block, {"TMPDIR": str(tmp_path)})).startswith("desktop#")
        assert (await run_block(hostile, {"TMPDIR": str(tmp_path)})).startswith("No answer rather than half")
        assert not await run_block(own, {"TMPDIR": str(tmp_path)})
