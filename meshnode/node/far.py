"""The way to a candidate at another node, and a job run there. It decides nothing."""

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
    """Reaches others over whatever mesh this node is on at the moment."""

    def __init__(self, presence: Callable[[], Presence | None]) -> None:
        self._find = presence

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
