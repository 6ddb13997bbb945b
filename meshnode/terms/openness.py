"""How much work a node takes, as it tells others. Coarse on purpose: it never says why."""

from enum import IntEnum


class Openness(IntEnum):
    """From open to closed. The numbers are those on the wire, see specs/gossip.md."""

    ACCEPTING = 0
    DEPRIORITISED = 1  # takes others' work where nobody else would rather
    PAUSED_FOR_REMOTE = 2  # works for its owner alone
    PAUSED = 3  # runs nothing at all; its owner's requests go elsewhere

    @property
    def takes_others(self) -> bool:
        """Whether work of other nodes is taken."""
        return self < Openness.PAUSED_FOR_REMOTE

    @property
    def words(self) -> str:
        """For people."""
        return self.name.lower().replace("_", " ")
