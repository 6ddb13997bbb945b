"""The code in docs/cache.md, run as it stands."""

import re
from pathlib import Path

import pytest
import trio

from meshnode import config
from tests.test_readme import run_block

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cache.md").read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(SETTINGS,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def anyio_backend() -> str:
    """A process of its own takes real time."""
    return "trio"


async def test_the_second_answer_is_a_kept_one(tmp_path: Path) -> None:
    env = {
        "MESHNODE_HOME": str(tmp_path / "home"),
        "MESHNODE_ENGINE": "scripted",
        "MESHNODE_MODEL": "smollm2:135m",
        "MESHNODE_MESH_HOST": "127.0.0.1",
        "MESHNODE_MESH_PORT": "0",
    }
    with trio.fail_after(60):
        printed = await run_block(PROGRAM, env)
    first, second = printed.splitlines()
    assert first.startswith("computed ")
    assert second == "exact 2"


def test_the_settings_are_settings(tmp_path: Path) -> None:
    (tmp_path / config.FILE_NAME).write_text(SETTINGS)
    assert config.load(tmp_path, {}, {}).cache == "semantic"
