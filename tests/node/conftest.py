"""Virtual time for every play about nodes."""

from pathlib import Path

import pytest
import trio
import trio.testing

from tests.node.small_mesh import World


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    """Nothing here waits for real."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
