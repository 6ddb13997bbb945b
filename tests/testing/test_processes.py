"""Real node processes for tests: what goes wrong in the test comes out of the context as it is."""

from pathlib import Path

import pytest
import trio

from meshnode.errors import ConfigInvalid, MeshError
from meshnode.testing.processes import node_process

SCRIPTED = ("--engine", "scripted")


async def test_an_error_in_the_body_comes_out_as_it_is_and_the_node_is_stopped(tmp_path: Path) -> None:
    with trio.fail_after(30):
        with pytest.raises(LookupError, match="mine"):
            async with node_process(tmp_path / "home", SCRIPTED) as node:
                await node.api_url()
                raise LookupError("mine")
        assert node.process.returncode == 0


async def test_a_node_that_ends_by_itself_gives_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text("no_such_key = 1\n")
    with trio.fail_after(30):
        with pytest.raises(MeshError) as caught:
            async with node_process(tmp_path / "home", SCRIPTED) as node:
                await node.event("ready")
    assert isinstance(caught.value, ConfigInvalid)
    assert "no_such_key" in str(caught.value)
