"""The others: what they offer, the way to a candidate there, and a job run there. It decides nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from meshnode.errors import Unreachable
from meshnode.net.link import Link
from meshnode.node.presence import Presence
from meshnode.serve.probing import Held
from meshnode.serve.remote import run_on_link
from meshnode.terms import Candidate, Emitted, Job
from meshwire.ids import NodeId


class Far:
    """Reaches others over whatever mesh this node is on at the moment; `marked` adds what only this node knows."""

    def __init__(
        self, presence: Callable[[], Presence | None], marked: Callable[[Candidate], Candidate]
    ) -> None:
        self._find = presence
        self._marked = marked

    def candidates(self) -> list[Candidate]:
        """What they offer now."""
        presence = self._find()
        return [self._marked(one) for one in presence.candidates()] if presence is not None else []

    def vitals_seqs(self) -> dict[bytes, int]:
        """Which state of their queues that was."""
        presence = self._find()
        return presence.vitals_seqs() if presence is not None else {}

    async def look_up(self, family: str) -> None:
        """Look for those who have models of a family."""
        if (presence := self._find()) is not None:
            await presence.look_up(family)

    def tell(self) -> None:
        """Something about this node has changed that they shall hear of soon."""
        if (presence := self._find()) is not None:
            presence.publisher.nudge()

    async def reach(self, candidate: Candidate) -> Link:
        """A link to a candidate, over relays if need be; raises Unreachable."""
        return await self._presence().circuits.reach(_path(candidate))

    @asynccontextmanager
    async def run(
        self, candidate: Candidate, job: Job, held: Held | None
    ) -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job there, on the stream on which a place is kept if there is one. Raises MeshError."""
        link = held.link if held is not None else await self.reach(candidate)
        way = partial(self._presence().another_way, _path(candidate))
        async with run_on_link(link, job, way, held.stream if held is not None else None) as pieces:
            yield pieces

    def _presence(self) -> Presence:
        presence = self._find()
        if presence is None:
            raise Unreachable("The node is moving to another mesh.")
        return presence


def _path(candidate: Candidate) -> tuple[NodeId, ...]:
    return tuple(NodeId(node) for node in candidate.path)
