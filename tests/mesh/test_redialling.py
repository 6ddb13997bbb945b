"""The timing rule of dialling again."""

import random

from meshnode.mesh.redialling import REDIAL_LAST_S, redial_delay_s


def test_dialling_again_backs_off_with_jitter_and_stays_prompt() -> None:
    rng = random.Random(1)
    first = [redial_delay_s(0, rng) for _ in range(50)]
    late = [redial_delay_s(1000, rng) for _ in range(50)]
    assert max(first) <= 0.5
    assert len(set(late)) == 50
    assert all(REDIAL_LAST_S / 2 <= delay <= REDIAL_LAST_S for delay in late)
