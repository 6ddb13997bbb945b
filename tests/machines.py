"""How long the stateful machines of hypothesis play: 25 examples of 50 steps each, or MESHNODE_EXAMPLES of them."""

import os

from hypothesis import HealthCheck, settings

PLAYED = settings(
    max_examples=int(os.environ.get("MESHNODE_EXAMPLES", "25")),
    stateful_step_count=50,
    suppress_health_check=list(HealthCheck),
)
