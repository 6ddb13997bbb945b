"""Traffic: what a node sends while nothing happens."""

from collections.abc import Sequence

import trio

from meshnode.testing.simulation import Simulation
from reliability.common import Play, Test, gather, names

TALK_S = 30.0


def talking(count: int) -> Play:
    """Kilobytes that each node sends in a second, while nothing happens."""

    async def play(simulation: Simulation) -> Sequence[float]:
        await gather(simulation, count)
        await trio.sleep(20)
        before = simulation.sent_bytes.copy()
        await trio.sleep(TALK_S)
        return [(simulation.sent_bytes[name] - before[name]) / TALK_S / 1000 for name in names(count)]

    return play


TESTS = (
    Test("a node of 16 says, while idle", 2, talking(16), 20.0, 50, unit="kB/s"),
    Test(
        "a node of 100 says, while idle",
        1,
        talking(100),
        20.0,
        50,
        "chitchat: 120",
        long=True,
        unit="kB/s",
    ),
)
