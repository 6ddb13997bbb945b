"""Virtual time: nothing here waits for real."""

import pytest
import trio
import trio.testing


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    """A clock that jumps to the next thing that happens."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0.05)}
