"""Virtual time for every play about the cache."""

import pytest
import trio
import trio.testing


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    """Nothing here waits for real."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
