"""What the plays about the audit log share: a log in a folder, its head, and decisions to put in."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.observe.audit import AuditLog, open_audit, read_head
from meshnode.observe.audit_check import Remembered, Report, check
from meshnode.observe.segments import Segments
from meshnode.seams import Seams, inline
from meshnode.terms import Privacy
from meshnode.trust.audit import Decision, Kind
from meshwire.signing import Signer

SIGNER = Signer(b"\x07" * 32)
WALL_S = 1_750_000_000.0
SEAMS = Seams(wall=lambda: WALL_S, rng=random.Random(1), blocking=inline)
BYTES_MAX = 1 << 20


@dataclass
class Home:
    """A node's folder, and the head as its store has it."""

    folder: Path
    head: bytes | None = None
    bytes_max: int = BYTES_MAX
    heads: list[bytes] = field(default_factory=list)
    synced: list[bytes] = field(default_factory=list)

    def load(self) -> bytes | None:
        return self.head

    def save(self, head: bytes, *, sync: bool) -> None:
        self.head = head
        self.heads.append(head)
        self.synced += [head] if sync else []

    async def open(self) -> AuditLog:
        return await open_audit(self.segments, self, SIGNER, SEAMS)

    @property
    def segments(self) -> Segments:
        return Segments(self.folder, self.bytes_max)

    def check(self, *remembered: Remembered) -> Report:
        return check(self.segments, SIGNER.public, read_head(self.head), remembered)

    @property
    def files(self) -> list[Path]:
        return [segment.path for segment in self.segments.all()]


def decision(number: int = 0, **changes: object) -> Decision:
    facts: dict[str, object] = {
        "kind": Kind.SENT,
        "request": f"req-{number:024x}",
        "privacy": Privacy.PRIVATE,
        "rung": "trusted",
        "where": "abcdefghijklmnopqrstuvwxyz234567",
        "weights": bytes([number % 256]) * 32,
        "trust": "trusted",
        "reason": "private needs trusted",
        "model": "smollm2:135m",
        "path": (b"\x01" * 20,),
    }
    return Decision(**(facts | changes))  # type: ignore[arg-type]


async def written(folder: Path, lines: int, **settings: int) -> Home:
    """A log of so many lines, as a node leaves it."""
    home = Home(folder, **settings)
    audit = await home.open()
    for number in range(lines):
        await audit.note(decision(number))
    return home
