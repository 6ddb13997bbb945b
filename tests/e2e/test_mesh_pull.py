"""Weights from another node's process, over real sockets: killed in the middle, and again, and whole at the end."""

import hashlib
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from meshnode.cli import client
from meshnode.control.pull import PullResult
from meshnode.errors import MeshError
from meshnode.testing.processes import NodeProcess, node_process
from tests.e2e.world import HANG_S, MODEL, has_model, join, surroundings

pytestmark = pytest.mark.model

MIB = 1 << 20
SHARED_KB_PER_S = 30_000  # slow enough to be killed in the middle
UNDER_WAY = 8 * MIB  # chunks that have not come whole when the process dies


class Killed(Exception):
    """The pulling node was killed, as the play wants it."""


@asynccontextmanager
async def empty_node(root: Path):
    """A node without a model, and with a cache of its own: what is on this machine already does not count."""
    env = surroundings(XDG_CACHE_HOME=str(root / "cache"))
    async with node_process(root / "home", ("--name", "empty", "--engine", "none"), env=env) as node:
        await node.mesh_address()
        yield node


async def pull(node: NodeProcess, kill_at: float = float("inf")) -> tuple[PullResult, float]:
    """Pull the model from the mesh; what it answers, and how many bytes were here when it began."""
    began: list[float] = []

    def watch(event) -> None:
        if event.get("step") == "fetching":
            began.append(event["done"])
            if event["done"] > kill_at:
                node.kill()

    call = partial(client.call, node.home, "pull", {"source": f"mesh:{MODEL}"}, PullResult, watch)
    try:
        return await call(), began[0] if began else 0.0
    except (MeshError, OSError) as error:
        if began and began[-1] > kill_at:
            raise Killed from error
        raise


async def test_a_pull_from_another_device_survives_kills_and_brings_no_chunk_twice(
    model_file: Path, tmp_path: Path
) -> None:
    size = model_file.stat().st_size
    giving = surroundings(MESHNODE_SHARE_KB_PER_S=str(SHARED_KB_PER_S))
    with trio.fail_after(2 * HANG_S):
        async with node_process(tmp_path / "giver", ("--name", "giver"), env=giving) as giver:
            await giver.until_ready()
            async with empty_node(tmp_path / "empty") as node:
                await join(node, giver, via=giver)
                await node.until(has_model)
                with pytest.raises(Killed):
                    await pull(node, kill_at=size / 4)
            async with empty_node(tmp_path / "empty") as node:
                await node.until(has_model)
                with pytest.raises(Killed):
                    await pull(node, kill_at=size / 2)
            async with empty_node(tmp_path / "empty") as node:
                await node.until(has_model)
                result, began = await pull(node)
    assert began >= size / 2 - UNDER_WAY
    (part,) = result.peers
    assert part.name.startswith("giver#")
    assert not part.wrong
    assert part.given_bytes <= size - began + UNDER_WAY
    assert result.digest == hashlib.sha256(model_file.read_bytes()).hexdigest()
