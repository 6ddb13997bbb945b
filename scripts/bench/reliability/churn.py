"""Churn: nodes come and go all the time; whether providers are found, and requests done."""

import random
from collections.abc import Awaitable, Callable

import trio

from meshnode.errors import MeshError
from meshnode.node import Node
from meshnode.testing.simulation import Simulation
from reliability.common import Play, Test, Values, gather, names
from reliability.hostile import found_of

CHURN_S = 600.0
SHARE_PER_MIN = 0.3
STAY_S = 20.0  # how long those that look and ask, and those that answer, have been there
LOOK_EVERY_S = 10.0
AWAY_S = 10.0  # a node that has gone comes back after so long
SILENT = 3  # one departure in so many is silent, one a crash, one a goodbye


class Churn:
    """A mesh of which so many nodes a minute go, in three ways, and come back; the first stays, as an issuer."""

    def __init__(self, simulation: Simulation, count: int) -> None:
        self._simulation = simulation
        self.rng = random.Random(f"{simulation.seed} churn")
        self._names = names(count)
        self._since = dict.fromkeys(self._names, 0.0)

    def steady(self, engine: str) -> list[Node]:
        """Nodes with this engine that have been there for a while."""
        now = trio.current_time()
        hosts = [self._simulation.host(name) for name in self._names]
        return [
            host.node
            for host in hosts
            if host.running and host.node.config.engine == engine and now - self._since[host.name] > STAY_S
        ]

    async def run(self) -> None:
        """Let one node after the other go, until cancelled."""
        pause_s = 60 / (SHARE_PER_MIN * len(self._names))
        async with trio.open_nursery() as nursery:
            for departure in range(10**6):
                await trio.sleep(pause_s)
                there = [name for name in self._names[1:] if self._simulation.host(name).running]
                name = self.rng.choice(there)
                nursery.start_soon(self._away, name, departure % SILENT)

    async def _away(self, name: str, how: int) -> None:
        self._since[name] = float("inf")
        if how == 0:
            await self._simulation.stop(name)
        else:
            await self._simulation.crash(name, silent=how == 1)
        await trio.sleep(AWAY_S)
        await self._simulation.restart(name)
        self._since[name] = trio.current_time()


Step = Callable[[Churn, list[bool]], Awaitable[None]]


async def look(churn: Churn, misses: list[bool]) -> None:
    """Look for a provider that is there, through the DHT alone."""
    asker, provider = churn.rng.choice(churn.steady("none")), churn.rng.choice(churn.steady("scripted"))
    found = await found_of(asker, provider)
    if asker.presence is not None and provider in churn.steady("scripted") and asker in churn.steady("none"):
        misses.append(found is None)


async def ask(churn: Churn, failures: list[bool]) -> None:
    """Ask, while there is a node that could answer."""
    asker = churn.rng.choice(churn.steady("none"))
    done = False
    try:
        async with asker.ask("Tell me more.", max_tokens=20, deadline_s=60) as running:
            done = sum([len(getattr(piece, "ids", ())) async for piece in running.pieces]) == 20
    except MeshError:
        done = False
    if asker in churn.steady("none"):  # one that has gone asks nothing any more
        failures.append(not done)


def churning(count: int, for_s: float = CHURN_S) -> Play:
    """How many lookups in a hundred miss, and how many requests in a hundred fail, while nodes come and go."""

    async def play(simulation: Simulation) -> tuple[Values, Values]:
        await gather(simulation, count)
        await trio.sleep(STAY_S + 5)
        churn = Churn(simulation, count)
        steps: tuple[tuple[Step, list[bool]], ...] = ((look, []), (ask, []))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(churn.run)
            async with trio.open_nursery() as under_way:
                for _ in range(int(for_s / LOOK_EVERY_S)):
                    await trio.sleep(LOOK_EVERY_S)
                    for step, outcomes in steps:
                        under_way.start_soon(step, churn, outcomes)
            nursery.cancel_scope.cancel()
        misses, failures = ([100 * sum(outcomes) / len(outcomes)] for _, outcomes in steps)
        return misses, failures

    return play


_PLAY = churning(32)
TESTS = (
    Test("32 nodes, 30% go each minute: lookups miss", 20, _PLAY, 1.0, unit="%", part=0, long=True),
    Test("32 nodes, 30% go each minute: requests fail", 20, _PLAY, 1.0, unit="%", part=1, long=True),
)
