"""Streams that break: an answer whose worker or link goes in the middle."""

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from meshnode.errors import MeshError
from meshnode.terms import Emitted, End, Piece
from meshnode.testing.simulation import Simulation
from reliability.common import GIVEN_UP_S, Play, Test, gather


def breaking(what: str) -> Play:
    """The longest pause of an answer whose worker or link goes in the middle; GIVEN_UP_S unless it is whole."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, 5)
        await trio.sleep(3)
        asker, heard = nodes[1], Heard()
        with trio.move_on_after(GIVEN_UP_S):
            try:
                async with asker.ask("Tell me a long story.", max_tokens=60, deadline_s=60) as running:
                    by = running.answer.served_by.split("#")[0]
                    async for item in running.pieces:
                        heard.take(item)
                        if heard.index > 10 and not heard.broken:
                            heard.broken = True
                            await break_off(simulation, what, asker.config.name, by)
            except MeshError:
                return [GIVEN_UP_S]
        return [heard.longest_s if heard.whole else GIVEN_UP_S]

    return play


async def break_off(simulation: Simulation, what: str, asker: str, by: str) -> None:
    """Take away the worker, or the way to it."""
    if what == "worker":
        await simulation.crash(by)
    else:
        simulation.partition(asker, by)


@dataclass
class Heard:
    """What has come of an answer: the next index, the longest pause since it broke, and whether it is whole."""

    index: int = 0
    ends: int = 0
    in_order: bool = True
    broken: bool = False
    longest_s: float = 0.0
    last_at: float = 0.0

    def take(self, item: Emitted) -> None:
        """One more item."""
        now = trio.current_time()
        if self.broken:
            self.longest_s = max(self.longest_s, now - self.last_at)
        self.last_at = now
        self.ends += isinstance(item, End)
        if isinstance(item, Piece):
            self.in_order = self.in_order and item.first_index == self.index
            self.index += len(item.ids)

    @property
    def whole(self) -> bool:
        """Whether it broke, and still has every index once, and one end."""
        return self.broken and self.in_order and self.ends == 1


TESTS = (
    Test("an answer goes on after its worker's crash", 20, breaking("worker"), 5.0),
    Test("an answer goes on after its link fell silent", 20, breaking("link"), 15.0),
)
