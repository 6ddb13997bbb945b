"""Model files fetched from other nodes of the mesh, in simulated meshes: several at once, liars, losses, refusals."""

from collections.abc import Callable
from typing import Any

import pytest

from meshnode.testing.simulation import Simulation
from tests.node.weights_play import CHUNKS, MODEL, Mill


@pytest.fixture
def mill(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Mill:
    return Mill(tmp_path, monkeypatch)


def test_a_model_comes_from_all_who_have_it_at_once(mesh: Callable[..., Any], mill: Mill) -> None:
    async def play(simulation: Simulation) -> None:
        a = await mill.mesh(simulation)
        seen = []
        model = await a.pull(f"mesh:{MODEL}", on_progress=seen.append)
        assert model.digest == mill.digest
        assert model.path.read_bytes() == mill.content
        assert model.name == MODEL
        assert {name for name, _ in mill.reads} == {"b", "c", "d"}
        assert {index for _, index in mill.reads} == set(range(CHUNKS))
        assert sum(part.given_bytes for part in model.parts) == len(mill.content)
        assert max(progress.peers for progress in seen) > 1

    mesh(play)
