"""pytest's fixtures for simulated meshes; pytest finds this by itself once meshnode is installed."""

from collections.abc import Callable
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many seeds, or which one."""
    group = parser.getgroup("meshnode", "simulated meshes")
    group.addoption("--mesh-seeds", type=int, default=1, help="run tests that take `mesh` with so many seeds")
    group.addoption("--mesh-seed", type=int, help="run them with this seed alone, as a failure has named it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `mesh` is one test for each seed."""
    if "mesh_seed" in metafunc.fixturenames:
        alone = metafunc.config.getoption("--mesh-seed")
        seeds = range(metafunc.config.getoption("--mesh-seeds")) if alone is None else (alone,)
        metafunc.parametrize("mesh_seed", seeds, ids=lambda seed: f"seed={seed}")


@pytest.fixture
def mesh(mesh_seed: int) -> Callable[..., Any]:
    """`mesh(play)` runs `play(simulation)` in virtual time, with this test's seed; see `simulate`."""
    from meshnode.testing.simulation import simulate

    def run(play: Callable[..., Any], **conditions: Any) -> Any:
        return simulate(mesh_seed, play, **conditions)

    return run
