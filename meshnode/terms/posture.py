"""What a worker that was taken over could do, as tried from inside it; and never what was merely wished."""

import msgspec


class Posture(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is contained.

    `kind` names what contains it: bubblewrap, landlock, upstream (another server, which we cannot see into),
    scripted (nothing of a stranger's is run) or none. The others say what an attempt from inside has shown:
    whether it could open a socket, write outside its scratch space, and read its owner's files. `why` says
    to a person what kept stronger containment away.
    """

    kind: str = "none"
    network: bool = True
    writes: bool = True
    reads: bool = True
    why: str = ""

    @property
    def contained(self) -> bool:
        """Whether none of it is possible, so that strangers' work may run."""
        return not (self.network or self.writes or self.reads)
