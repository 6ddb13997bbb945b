"""The audit log as it is written: a decision is on the disk, and under the signed head, before `note` returns.

`begin` returns sooner: then a line is in its file, where it outlives the process, and is on its way to the disk.
What a line says and how lines hold each other is `trust.audit`; the files are `observe.segments` and `observe.head`.
It knows no requests.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import trio

from meshnode.errors import Busy, HomeUnusable
from meshnode.observe import log
from meshnode.observe.segments import Segment, Segments
from meshnode.seams import Seams
from meshnode.trust.audit import (
    Damaged,
    Decision,
    Head,
    Kind,
    Point,
    check_follows,
    head_holds,
    line_of,
    read_line,
    sign_head,
)
from meshwire.signing import Signer

BATCH_MAX = 64  # lines that share one write, so that many requests at once do not wait for as many disks
HEAD_SYNCED_EVERY = BATCH_MAX  # lines; in between the head outlives the process, and not a loss of power
BEYOND_HEAD_MAX = HEAD_SYNCED_EVERY + BATCH_MAX  # lines that a crash can leave behind the head
WAITING_MAX = 1024


class Heads(Protocol):
    """Where the head is kept; raises HomeUnusable. Both may block."""

    def load(self) -> bytes | None:
        """The last one saved."""
        ...

    def save(self, head: bytes, *, sync: bool) -> None:
        """Keep it; for good, if it is to be synced."""
        ...


logger = log.get("audit")


def read_head(packed: bytes | None) -> Head | None:
    """The head in these bytes, None if there is none; raises Damaged. Whose signature it bears is for the caller."""
    if packed is None:
        return None
    try:
        return msgspec.msgpack.decode(packed, type=Head)
    except msgspec.MsgspecError as error:
        raise Damaged(f"the signed head cannot be read: {error}") from error


@dataclass(slots=True)
class _Waiting:
    """A decision on its way to the disk."""

    decision: Decision
    done: bool = False
    failure: HomeUnusable | None = None


class Begun:
    """A line that is in its file, and on its way to the disk."""

    def __init__(self) -> None:
        self._over = trio.Event()
        self._failure: HomeUnusable | None = None

    def finish(self, failure: HomeUnusable | None = None) -> None:
        """It is there for good, or could not be brought there."""
        self._failure = failure
        self._over.set()

    async def lasts(self) -> None:
        """Wait until it outlives a loss of power; raises HomeUnusable."""
        await self._over.wait()
        if self._failure is not None:
            raise HomeUnusable(self._failure.message, hint=self._failure.hint)


class AuditLog:
    """One node's log; made by `open_audit`."""

    def __init__(self, segments: Segments, signer: Signer, seams: Seams, heads: Heads) -> None:
        self._segments = segments
        self._signer = signer
        self._seams = seams
        self._heads = heads
        self._base = self._end = self._written = Point()
        self._synced_n = -HEAD_SYNCED_EVERY
        self._queue: list[_Waiting] = []
        self._one_writer = trio.Semaphore(1)  # a lock that another task may give back

    @property
    def end(self) -> Point:
        """The last line that is on the disk and under the signed head."""
        return self._end

    async def note(self, decision: Decision) -> None:
        """Write a line; once this returns it is there for good, and what it speaks of may happen.

        Raises HomeUnusable when it cannot be written: then it must not happen. Raises Busy if too many wait.
        """
        if len(self._queue) >= WAITING_MAX:
            raise Busy(f"{WAITING_MAX} requests wait for the audit log.", retry_after_s=1.0)
        waiting = _Waiting(decision)
        self._queue.append(waiting)
        try:
            async with self._one_writer:
                while not waiting.done:
                    with trio.CancelScope(
                        shield=True
                    ):  # a thread that writes cannot be left alone with the file
                        await self._write()
        finally:
            if waiting in self._queue:
                self._queue.remove(waiting)
        if waiting.failure is not None:
            raise HomeUnusable(waiting.failure.message, hint=waiting.failure.hint)

    async def begin(self, decision: Decision) -> Begun:
        """Write a line; once this returns it outlives this process, and what it speaks of may happen.

        What came of it must not be told before it `lasts`. Raises HomeUnusable when it cannot be written, Busy.
        """
        begun = Begun()
        if (end := self._written_at_once(decision)) is None:
            await self.note(decision)
            begun.finish()
        else:
            trio.lowlevel.spawn_system_task(self._settle, begun, end)  # whoever began it may be cancelled
        return begun

    def _written_at_once(self, decision: Decision) -> Point | None:
        """Where the log ends with this line, which is not synced; None if that must wait, and nothing was written."""
        if self._one_writer.value == 0:
            return None
        lines, end = self._lines([decision])
        if not self._segments.append_unsynced(lines):
            return None
        self._one_writer.acquire_nowait()
        self._written = end
        return end

    async def _settle(self, begun: Begun, end: Point) -> None:
        """Sync what was begun. If that fails the line stays, for what it speaks of may have happened."""
        failure: HomeUnusable | None = None
        try:
            with trio.CancelScope(shield=True):
                await self._seams.blocking(lambda: self._sync(end))
        except HomeUnusable as error:
            logger.warning("audit.unsynced", why=str(error))
            failure = error
        finally:
            self._one_writer.release()
            begun.finish(failure)

    def _sync(self, end: Point) -> None:
        self._segments.sync()
        self._sign(self._base, end)

    async def _write(self) -> None:
        """Write what waits, as far as one batch goes, and tell those who wait how it went."""
        batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
        failure: HomeUnusable | None = HomeUnusable("The audit log could not be written.")
        try:
            await self._append([waiting.decision for waiting in batch])
            failure = None
        except HomeUnusable as error:
            logger.warning("audit.unwritten", lines=len(batch), why=str(error))
            failure = error
        finally:
            for waiting in batch:
                waiting.done, waiting.failure = True, failure

    async def _append(self, decisions: list[Decision]) -> None:
        """Lines, then the head over them; a head that cannot be kept takes the lines back."""
        lines, end = self._lines(decisions)
        await self._seams.blocking(lambda: self._put(lines, end))

    def _lines(self, decisions: list[Decision]) -> tuple[bytes, Point]:
        """Lines for these, and where the log ends with them."""
        at = datetime.fromtimestamp(self._seams.wall(), tz=UTC).isoformat(timespec="milliseconds")
        end, raws = self._written, []
        for decision in decisions:
            raw, end = line_of(self._signer.public, end, decision, at)
            raws.append(raw)
        return b"".join(raws), end

    def _put(self, lines: bytes, end: Point) -> None:
        """Both to the disk, in one go: a switch to a thread and back costs as much as a write."""
        begun = self._segments.append(self._written.n + 1, lines)
        try:
            superfluous = self._segments.superfluous() if begun else []
            self._sign(self._base_after(superfluous), end)
        except BaseException:
            self._take_back(len(lines))
            raise
        self._written = end
        if superfluous:
            self._segments.remove(superfluous)

    def _sign(self, base: Point, end: Point) -> None:
        sync = base != self._base or end.n >= self._synced_n + HEAD_SYNCED_EVERY
        self._heads.save(msgspec.msgpack.encode(sign_head(self._signer, base, end)), sync=sync)
        self._base, self._end = base, end
        self._synced_n = end.n if sync else self._synced_n

    def _base_after(self, superfluous: list[Segment]) -> Point:
        """Where the log begins once these files are gone."""
        if not superfluous:
            return self._base
        oldest = self._segments.all()[len(superfluous)]
        try:
            line, _ = read_line(self._signer.public, _first_line(self._segments.read(oldest)))
        except Damaged:
            return Point(oldest.first - 1)  # whoever checks the log finds that line
        return Point(line.n - 1, bytes.fromhex(line.previous))

    def _take_back(self, size: int) -> None:
        last = self._segments.all()[-1]
        self._segments.cut(last, max(0, last.path.stat().st_size - size))

    # --- When the node starts ---

    async def open(self) -> None:
        """Find the end, mend what a crash left unfinished, and say what was found; raises HomeUnusable."""
        for decision in await self._seams.blocking(self._opened):
            logger.warning("audit.found", kind=decision.kind, why=decision.reason)
            await self.note(decision)

    def _opened(self) -> list[Decision]:
        """What there is to tell of the log as it was found. From here on one without a head is one that lost it."""
        packed = self._heads.load()
        found = self._recovered(packed)
        self._written = self._end
        if packed is None:
            self._sign(self._base, self._end)
        return found

    def _recovered(self, packed: bytes | None) -> list[Decision]:
        """What there is to tell of the log as it was found; base and end are known then."""
        head: Head | None = None
        try:
            head = self._trusted(read_head(packed))
            self._base, signed = (head.base, head.end) if head else (Point(), Point())
            self._end, cut = self._found_end(signed, known=head is not None)
            return _told(self._end.n - signed.n, cut)
        except Damaged as error:
            self._base = self._end = head.end if head else Point()
            aside = self._segments.set_aside(str(self._seams.now_ms()))
            why = f"The log was found damaged: {error}. What there was of it lies in {aside.name}."
            return [Decision(kind=Kind.GAP, reason=why)]

    def _trusted(self, head: Head | None) -> Head | None:
        if head is not None and not head_holds(self._signer.public, head):
            raise Damaged("the head is not signed by this node")
        return head

    def _found_end(self, signed: Point, *, known: bool) -> tuple[Point, int]:
        """The place after the last good line, and how many bytes of an unfinished write were cut off behind it."""
        segments = self._segments.all()
        if not segments:
            if signed.n > self._base.n:
                raise Damaged(f"its files are gone, and the signed head is line {signed.n}")
            return signed, 0
        if not known:
            raise Damaged("there is no signed head")
        last = segments[-1]
        raw = self._segments.read(last)
        end, size = _walked(self._signer.public, raw, signed, last)
        if end.n < signed.n:
            raise Damaged(f"it ends after line {end.n}, and the signed head is line {signed.n}")
        if end.n > signed.n + BEYOND_HEAD_MAX:
            raise Damaged(f"{end.n - signed.n} lines follow the signed head, more than a crash can leave")
        if size < len(raw):
            self._segments.cut(last, size)
        return end, len(raw) - size


def _walked(key: bytes, raw: bytes, signed: Point, segment: Segment) -> tuple[Point, int]:
    """The place after the last good line of a file, and the bytes up to there; raises Damaged.

    Beyond the signed head nothing was acknowledged: there the first bad byte is where the log ends.
    """
    point, size = (signed, 0) if segment.first == signed.n + 1 else (None, 0)
    while size < len(raw):
        end = raw.find(b"\n", size) + 1 or len(raw)
        try:
            line, place = read_line(key, raw[size:end])
            if point is not None:
                check_follows(line, point)
            _check_signed(place, signed)
        except Damaged as error:
            if point is not None and point.n >= signed.n:
                return point, size
            at = segment.first if point is None else point.n + 1
            raise Damaged(f"line {at}: {error}") from error
        point, size = place, end
    if point is None:
        raise Damaged(f"{segment.path.name} is empty")
    return point, size


def _check_signed(place: Point, signed: Point) -> None:
    if place.n == signed.n and place.hash != signed.hash:
        raise Damaged("it is not the one under the signed head")


def _told(adopted: int, cut: int) -> list[Decision]:
    said = []
    if cut:
        said.append(f"{cut} bytes of an unfinished write were taken away")
    if adopted:
        said.append(f"{adopted} lines that were written and not acknowledged were kept")
    return [Decision(kind=Kind.MENDED, reason="; ".join(said))] if said else []


def _first_line(raw: bytes) -> bytes:
    return raw[: raw.find(b"\n") + 1]


async def open_audit(segments: Segments, heads: Heads, signer: Signer, seams: Seams) -> AuditLog:
    """The log in these files, ready to be written; raises HomeUnusable."""
    audit = AuditLog(segments, signer, seams, heads)
    await audit.open()
    return audit
