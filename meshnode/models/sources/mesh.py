"""A model that other nodes of the mesh have: `mesh:NAME`. How they are found and reached is handed in."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshnode.errors import NotRunning
from meshnode.models.download import Fetched
from meshnode.models.gather import Gathering
from meshnode.models.sources.base import Offer, Work
from meshnode.models.store import Part
from meshnode.models.supplier import Supplier
from meshnode.seams import Blocking


class Found(Protocol):
    """A file that nodes of the mesh advertise."""

    @property
    def digest(self) -> bytes:
        """Its SHA-256."""
        ...

    @property
    def name(self) -> str:
        """What they call it; empty if it was asked for by its digest."""
        ...

    @property
    def source(self) -> str:
        """What to pull to get it again."""
        ...

    def suppliers(self) -> Sequence[Supplier]:
        """Who advertises it now."""
        ...


@dataclass(slots=True)
class MeshSource:
    """A file of the mesh; `find_in_mesh` raises ModelNotFound or BadRequest. `parts` says who gave what of it."""

    find_in_mesh: Callable[[], Awaitable[Found]]
    parts: tuple[Part, ...] = ()
    found: Found | None = None

    async def find(self, _blocking: Blocking) -> Offer:
        """What the ads say: the digest is theirs, and the file must have it."""
        found = self.found = await self.find_in_mesh()
        return Offer(source=found.source, name=found.name, sha256=found.digest.hex())

    async def fetch(self, offer: Offer, work: Work) -> Fetched:
        """The file, from all who have it."""
        assert self.found is not None
        gathering = Gathering(bytes.fromhex(offer.sha256), self.found.suppliers, work)
        try:
            return await gathering.run()
        finally:
            self.parts = gathering.parts()


def not_running() -> NotRunning:
    """What to say where there is no mesh to fetch from."""
    return NotRunning(
        "No node runs from this home, so there is no mesh to fetch from.", hint="Start it: meshnode up"
    )
