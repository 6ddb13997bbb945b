"""The code in docs/observability.md, run as it stands."""

import re
from pathlib import Path

import trio

from tests.test_readme import run_block

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")
(TRACES,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


async def test_the_spans_of_a_program(tmp_path: Path) -> None:
    env = {
        "MESHNODE_HOME": str(tmp_path / "home"),
        "MESHNODE_ENGINE": "scripted",
        "MESHNODE_MESH_HOST": "127.0.0.1",
        "MESHNODE_MESH_PORT": "0",
    }
    with trio.fail_after(60):
        printed = await run_block(TRACES, env)
    assert printed == "meshnode.choose meshnode.attempt meshnode.request question\n"
