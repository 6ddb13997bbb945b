"""A worker that is killed at random moments under load, a few times; `kills.py` does it as often as one likes."""

import pytest

from meshnode.engine import process
from tests.engine import kills

KILLS = 8


@pytest.mark.model
async def test_killed_at_random_moments_every_stream_goes_on(model_file, monkeypatch):
    monkeypatch.setattr(process, "STEADY_S", 0.0)
    tally = await kills.run(model_file, KILLS)
    assert tally.kills == KILLS
    assert tally.crashes >= KILLS  # several streams were hit by some, and none by others
    assert tally.resumed > 0
    assert tally.answers >= kills.STREAMS
