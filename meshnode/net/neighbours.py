"""One link to each member that has any, and words that go from neighbour to neighbour. It knows not what they say."""

from collections.abc import Callable, Sequence, Set

from meshnode.net.link import Link
from meshnode.seams import Rng
from meshwire.ids import NodeId
from meshwire.numbers import Message

HANDED_ON_TO = 12


class Neighbours:
    """The members that a node has links to."""

    def __init__(self, links: Callable[[], Sequence[Link]], rng: Rng) -> None:
        self._links = links
        self._rng = rng

    def links(self) -> list[Link]:
        """One to each, the one heard last."""
        best: dict[NodeId, Link] = {}
        for link in self._links():
            known = best.get(link.node)
            if link.alive and not link.joining and (known is None or link.heard_at > known.heard_at):
                best[link.node] = link
        return list(best.values())

    def tell_all(self, message: Message) -> None:
        """Tell each of them."""
        for link in self.links():
            link.post(message)

    def hand_on(self, message: Message, sender: NodeId) -> None:
        """Tell at once what another has told."""
        for link in self.unaware(self.links(), {sender}):
            link.post(message)

    def unaware(self, links: Sequence[Link], knowers: Set[NodeId]) -> Sequence[Link]:
        """Whom to tell what these have told: so many that it comes to everybody, drawn by lot; one's own all."""
        if not knowers:
            return links
        unaware = [link for link in links if link.node not in knowers]
        return self._rng.sample(unaware, min(len(unaware), max(HANDED_ON_TO + 1 - len(knowers), 0)))
