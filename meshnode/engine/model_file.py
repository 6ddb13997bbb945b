"""A model file as an engine is given it. It reads no files."""

import msgspec

from meshnode.engine.footprint import Shape
from meshnode.trust.weights import Statement


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A verified model file: its path, the SHA-256 it was verified against, and its `family:size` name.

    `shape` is what its size in memory follows from; without one it is taken to need none. `statement` says
    who signed it, and holds.
    """

    path: str
    digest: bytes
    name: str = ""
    shape: Shape = Shape(0, 0, 0)
    statement: Statement | None = None
