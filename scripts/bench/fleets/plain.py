"""The usual policies, written out: random, round robin, least loaded by gossip, the better of two by lot."""

import random

from fleets.fleet import Fleet, Request


class Plain:
    """What they have in common: they learn nothing from how it went."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def arrived(self, fleet: Fleet, request: Request) -> None:
        """A request came in."""
        fleet.send(request, self._pick(fleet, request))

    def _pick(self, fleet: Fleet, request: Request) -> int:
        raise NotImplementedError

    def began(self, fleet: Fleet, request: Request) -> None:
        """Its first token came."""

    def ended(self, fleet: Fleet, request: Request) -> None:
        """Its last token came."""


class Random(Plain):
    """Any of them."""

    def _pick(self, fleet: Fleet, request: Request) -> int:
        return self._rng.randrange(len(fleet.machines))


class RoundRobin(Plain):
    """One after the other, at each entry."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._next: dict[int, int] = {}

    def _pick(self, fleet: Fleet, request: Request) -> int:
        count = len(fleet.machines)
        turn = self._next.get(request.entry, self._rng.randrange(count))
        self._next[request.entry] = (turn + 1) % count
        return turn


class LeastLoaded(Plain):
    """The one with the fewest requests, by gossip."""

    def _pick(self, fleet: Fleet, request: Request) -> int:
        least = min(news.load[0] for news in fleet.news)
        return self._rng.choice([n for n, news in enumerate(fleet.news) if news.load[0] == least])


class TwoChoices(Plain):
    """The one with fewer requests, by gossip, of two by lot."""

    def _pick(self, fleet: Fleet, request: Request) -> int:
        one, other = self._rng.sample(range(len(fleet.machines)), 2)
        return min(one, other, key=lambda number: fleet.news[number].load[0])
