"""What every test shares: async tests run on trio, and hypothesis draws the same examples each time."""

import pytest
from hypothesis import HealthCheck, settings

# A fixed set of examples, and no limits in time: a busy machine must not turn a run red.
settings.register_profile(
    "steady", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture
def anyio_backend() -> str:
    """Trio only: nothing here runs on asyncio."""
    return "trio"
