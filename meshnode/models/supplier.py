"""What fetching from the mesh needs of the network, which hands it in: nodes that have a file, and lanes to them."""

from typing import Protocol


class Offered(Protocol):
    """What a node promises of a file."""

    @property
    def size_bytes(self) -> int:
        """Its size."""
        ...

    @property
    def chunk_bytes(self) -> int:
        """That of its chunks."""
        ...

    @property
    def hashes(self) -> bytes:
        """Theirs, in a row."""
        ...


class Lane(Protocol):
    """A stream to a node that has the file, for one task. Everything raises MeshError."""

    async def ask(self, digest: bytes, *, brief: bool = False) -> Offered:
        """What it promises; with `brief` only whether it still does."""
        ...

    async def get(self, index: int, size_bytes: int) -> bytes:
        """One chunk."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...


class Supplier(Protocol):
    """A node that says it has the file; `id` is its own alone, `name` is for people."""

    @property
    def id(self) -> str:
        """Tells it from all others."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    async def open(self) -> Lane:
        """A new lane to it, over a link that is made if need be. Raises MeshError."""
        ...
