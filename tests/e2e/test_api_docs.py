"""The code in docs/api.md, run as it stands, and its lists against the program's own."""

import re
from pathlib import Path

import trio

from meshnode.api.completion import Completion
from meshnode.api.options import MeshOptions
from meshnode.api.responses.body import ResponseBody
from meshnode.api.text.body import TextBody
from meshnode.testing.processes import node_process
from tests.e2e.world import MODEL
from tests.test_readme import run_block

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
CLIENT, LIBRARY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


async def test_the_clients_code_calls_a_tool_and_gets_vectors(tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with node_process(tmp_path / "home", ("--engine", "scripted")) as node:
            await node.event("ready")
            url = await node.api_url()
            printed = await run_block(CLIENT.replace("http://127.0.0.1:8420", url), {})
    assert printed == "weather\ncompleted\nlength\n2\n"


async def test_the_programs_code_gets_json_and_vectors(tmp_path: Path) -> None:
    env = {
        "MESHNODE_HOME": str(tmp_path / "home"),
        "MESHNODE_ENGINE": "scripted",
        "MESHNODE_MODEL": MODEL,
        "MESHNODE_MESH_HOST": "127.0.0.1",
        "MESHNODE_MESH_PORT": "0",
    }
    with trio.fail_after(60):
        printed = await run_block(LIBRARY, env)
    assert printed == f"{{'sunny': False}} 2 {MODEL}\n"


def test_every_field_and_header_is_on_the_page() -> None:
    for kind in (Completion, TextBody, ResponseBody):
        for name in kind.__struct_fields__:
            known = {"presence_penalty", "frequency_penalty", "repeat_penalty"}  # "the penalties"
            assert name in known or f"`{name}" in PAGE, name
    for name in MeshOptions.__struct_fields__:
        assert f"| `{name}` | `x-mesh-{name.replace('_', '-')}` |" in PAGE
