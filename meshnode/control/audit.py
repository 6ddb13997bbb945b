"""Checking and reading a node's audit log. It works on the home's files, and needs no running node.

What other nodes remember of the log comes from outside: from the running node, or out of a file.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from meshnode.errors import AuditBroken, BadRequest
from meshnode.identity import IDENTITY_FILE, load_or_create
from meshnode.mesh.witness import head_in
from meshnode.observe.audit import read_head
from meshnode.observe.audit_check import Finding, Remembered, Report, check, lines_about, lines_of
from meshnode.observe.head import HeadFile
from meshnode.observe.segments import FOLDER, Segments
from meshnode.seams import Seams
from meshnode.trust.audit import Damaged, Line
from meshwire.errors import RemoteWireError
from meshwire.records import read_record

LINES_MAX = 100_000
HEADS_BYTES_MAX = 16 << 20
TRIES = 3  # a running node may write, or rotate its files, while they are read


class Heard(msgspec.Struct, frozen=True):
    """Vitals, raw and in hex, that the node `by` remembers of `node`."""

    node: str
    by: str
    raw: str


async def verify_log(home: Path, heard: Iterable[Heard], seams: Seams) -> Report:
    """Hold all of the log against its signed head, and against what others remember. Raises BadRequest, HomeUnusable.

    Of what is given only vitals that this very node has signed count.
    """
    key = own_key(home)
    segments, remembered, head_file = _segments(home), remembered_in(heard, key), HeadFile(home)
    report = Report()
    for _ in range(TRIES):
        packed = await seams.blocking(head_file.load)
        try:
            head = read_head(packed)
        except Damaged as error:
            return Report(bad=Finding(0, "", 0, str(error)))
        report = await seams.blocking(lambda: check(segments, key, head, remembered))  # noqa: B023 - it ends before
        if report.intact or await seams.blocking(head_file.load) == packed:
            break
    return report


def raise_if_broken(report: Report) -> None:
    """Return if the log is as it was written; raises AuditBroken that says where it is not."""
    if report.bad is not None:
        where = f" ({report.bad.file}, byte {report.bad.offset})" if report.bad.file else ""
        raise AuditBroken(
            f"{report.bad.why}{where}",
            hint="Lines before it are as they were written. Compare with a backup, and ask who could write here.",
        )


def remembered_in(heard: Iterable[Heard], key: bytes) -> list[Remembered]:
    """The heads of the node with this key, out of vitals that it has signed itself."""
    found = []
    for one in heard:
        try:
            record = read_record(bytes.fromhex(one.raw))
        except (ValueError, RemoteWireError):
            continue
        point = head_in(record)
        if record.key == key and point is not None and point.n > 0:
            found.append(Remembered(f"what {one.by} remembers", point))
    return found


def read_heads(file: Path) -> tuple[Heard, ...]:
    """What `meshnode audit heads --json` printed on other nodes: one object a line. Raises BadRequest."""
    try:
        raw = file.read_bytes()[:HEADS_BYTES_MAX]
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}.", param="heads") from error
    try:
        return tuple(msgspec.json.decode(line, type=Heard) for line in raw.splitlines() if line.strip())
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"{file} does not hold heads: {error}.",
            hint="Make it with `meshnode audit heads --json` on another node.",
            param="heads",
        ) from error


def last_lines(home: Path, most: int) -> list[Line]:
    """The last lines of the log, oldest first."""
    return lines_of(_segments(home), min(most, LINES_MAX))


def lines_on(home: Path, what: str) -> list[Line]:
    """The lines about a request, or the line of this number. Raises BadRequest if there is none."""
    found = list(lines_about(_segments(home), what))
    if not found:
        raise BadRequest(
            f"The audit log has no line about {what[:80]!r}.",
            hint="Only what left this node or was refused has one; `meshnode audit tail` shows the last.",
            param="what",
        )
    return found


def own_key(home: Path) -> bytes:
    """The public key of the node of this home. Raises BadRequest if there was none yet, HomeUnusable."""
    if not (home / IDENTITY_FILE).is_file():
        raise BadRequest(f"There has been no node in {home}.", hint="Name its --home.", param="home")
    return load_or_create(home, bytes).key


def _segments(home: Path) -> Segments:
    return Segments(home / FOLDER, 0)
