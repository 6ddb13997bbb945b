"""The code in docs/library.md, run as it stands."""

import re
from pathlib import Path

import trio

from meshnode.bridge.flow import WAITING_ITEMS
from tests.test_readme import run_block

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
PLAIN, ASYNCIO, TWO = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def surroundings(home: Path) -> dict[str, str]:
    return {
        "MESHNODE_HOME": str(home),
        "MESHNODE_ENGINE": "scripted",
        "MESHNODE_MESH_HOST": "127.0.0.1",
        "MESHNODE_MESH_PORT": "0",
        "MESHNODE_DISCOVER": "false",
    }


async def test_the_plain_code(tmp_path: Path) -> None:
    with trio.fail_after(60):
        printed = await run_block(PLAIN, surroundings(tmp_path / "home"))
    assert len(printed.split()) > 60
    assert printed.endswith("model_not_found\n")


async def test_the_code_for_asyncio(tmp_path: Path) -> None:
    with trio.fail_after(60):
        printed = await run_block(ASYNCIO, surroundings(tmp_path / "home"))
    assert printed.endswith("local\nlocal\ncancelled, also where it ran\n")


async def test_two_nodes_in_one_program(tmp_path: Path) -> None:
    code = TWO.replace('home="desk", model=""', f'home="{tmp_path}/desk", engine="none"')
    code = code.replace('home="attic"', f'home="{tmp_path}/attic"')
    assert code.count(str(tmp_path)) == 2
    with trio.fail_after(60):
        printed = await run_block(code, surroundings(tmp_path / "home"))
    assert printed == "peer\n['linked']\n"


def test_the_bound_on_the_page_is_the_programs() -> None:
    assert f"at most {WAITING_ITEMS} pieces" in PAGE
