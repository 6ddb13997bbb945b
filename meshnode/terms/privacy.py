"""How far a request may travel, and how far a node is trusted. Both are ordered; neither knows who decides."""

from enum import IntEnum, StrEnum


class Privacy(StrEnum):
    """The class of a request: it decides which nodes may run it."""

    PUBLIC = "public"  # any member
    PRIVATE = "private"  # trusted nodes; the default
    SENSITIVE = "sensitive"  # endorsed nodes only
    LOCAL = "local"  # never leaves this node


class Trust(IntEnum):
    """The lattice of trust, each level including those below it."""

    NONE = 0
    MEMBER = 1
    TRUSTED = 2
    ENDORSED = 3
    HARDWARE = 4
    SELF = 5


TRUST_NEEDED = {
    Privacy.PUBLIC: Trust.MEMBER,
    Privacy.PRIVATE: Trust.TRUSTED,
    Privacy.SENSITIVE: Trust.ENDORSED,
    Privacy.LOCAL: Trust.SELF,
}
