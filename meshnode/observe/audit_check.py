"""Reading an audit log: whether it is as it was written, where it first is not, and its lines for people.

A log is held against its signed head, and against heads that other nodes remember. It changes nothing.
"""

from collections.abc import Iterator, Sequence

import msgspec

from meshnode.observe.audit import BEYOND_HEAD_MAX
from meshnode.observe.segments import Segment, Segments
from meshnode.trust.audit import Damaged, Head, Kind, Line, Point, check_follows, head_holds, read_line

UNREADABLE = Line(n=0, at="", decision="unreadable")


class Remembered(msgspec.Struct, frozen=True):
    """A head that somebody else heard this node sign; `by` says who, for people."""

    by: str
    point: Point


class Finding(msgspec.Struct, frozen=True):
    """The first thing that is wrong: the number of the line, where it begins (`file`, byte `offset`), and what."""

    line: int
    file: str
    offset: int
    why: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found.

    The log has `lines` lines, from `first` to `last`; `head` is the line under the signed head. `unacknowledged`
    lines and `unfinished_bytes` follow it: a write that is under way, or that a crash broke off. `remembered` counts
    the heads of others that it was held against. `gaps` are the lines at which the node says that it had found its
    log damaged.
    """

    lines: int = 0
    first: int = 0
    last: int = 0
    head: int = 0
    unacknowledged: int = 0
    unfinished_bytes: int = 0
    remembered: int = 0
    gaps: tuple[int, ...] = ()
    bad: Finding | None = None

    @property
    def intact(self) -> bool:
        """Whether every line is there as it was written, and none was ever missing."""
        return self.bad is None


def check(segments: Segments, key: bytes, head: Head | None, remembered: Sequence[Remembered] = ()) -> Report:
    """Read all of a log of the node with this key; `head` is None for a node that never wrote one."""
    walk = _Walk(key, head, remembered)
    try:
        walk.begin()
        for segment in segments.all():
            if not walk.take(segment, segments.read(segment)):
                break
        walk.finish()
    except _Found as found:
        return walk.report(found.finding)
    return walk.report(None)


def lines_of(segments: Segments, most: int) -> list[Line]:
    """The last lines, oldest first, as they stand there; UNREADABLE for those that are none."""
    found: list[Line] = []
    for segment in reversed(segments.all()):
        found = [*_read(segments.read(segment)), *found]
        if len(found) >= most:
            break
    return found[-most:]


def lines_about(segments: Segments, what: str) -> Iterator[Line]:
    """The lines of a request, or the line of this number."""
    for segment in segments.all():
        yield from (line for line in _read(segments.read(segment)) if what in (line.request, str(line.n)))


def _read(raw: bytes) -> list[Line]:
    return [_lenient(part) for part in raw.split(b"\n") if part]


def _lenient(part: bytes) -> Line:
    try:
        return msgspec.json.decode(part, type=Line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return UNREADABLE


class _Found(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.why)
        self.finding = finding


class _Walk:
    """Where a check has come to. Its methods raise _Found."""

    def __init__(self, key: bytes, head: Head | None, remembered: Sequence[Remembered]) -> None:
        self._key = key
        self._head = head
        self._base, self._signed = (head.base, head.end) if head else (Point(), Point())
        self._held: list[Remembered] = [
            *(
                [Remembered("the signed head", self._signed), Remembered("its base", self._base)]
                if head
                else []
            ),
            *(one for one in remembered if one.point.n >= self._base.n),
        ]
        self._others = sum(one.point.n >= self._base.n for one in remembered)
        self._point: Point | None = None
        self._first = 0
        self._gaps: list[int] = []
        self._unfinished = 0

    def begin(self) -> None:
        """What can be said before any line is read."""
        if self._head is not None and not head_holds(self._key, self._head):
            raise _Found(Finding(0, "", 0, "The head is not signed by this node."))

    def take(self, segment: Segment, raw: bytes) -> bool:
        """One file; False once the rest is an unfinished write."""
        name, offset = segment.path.name, 0
        while offset < len(raw):
            end = raw.find(b"\n", offset) + 1 or len(raw)
            try:
                self._one(raw[offset:end], segment.first if not offset else None)
            except Damaged as error:
                if self._reached >= max((one.point.n for one in self._held), default=0):
                    self._unfinished = len(raw) - offset
                    return False
                at = segment.first if self._point is None else self._point.n + 1
                raise _Found(
                    Finding(at, name, offset, f"Line {at} is not as it was written: {error}.")
                ) from error
            offset = end
        return True

    def finish(self) -> None:
        """What can be said once all was read."""
        last = self._point or self._base
        for one in sorted(self._held, key=lambda one: one.point.n):
            if one.point.n > last.n:
                why = f"The log ends after line {last.n}, and {one.by} is line {one.point.n}."
                raise _Found(Finding(last.n + 1, "", 0, why))
        if last.n > self._signed.n + BEYOND_HEAD_MAX:
            at = self._signed.n + 1
            raise _Found(Finding(at, "", 0, f"Lines from {at} on are not under the signed head."))
        if self._point is not None and self._head is None:
            raise _Found(Finding(1, "", 0, "There is no signed head."))
        if self._gaps:
            at = self._gaps[0]
            raise _Found(Finding(at, "", 0, f"At line {at} the node says that it had found its log damaged."))

    def report(self, bad: Finding | None) -> Report:
        """The whole of it."""
        last = self._point.n if self._point is not None else 0
        return Report(
            lines=last - self._first + 1 if last else 0,
            first=self._first,
            last=last,
            head=self._signed.n,
            unacknowledged=max(0, last - self._signed.n),
            unfinished_bytes=self._unfinished,
            remembered=self._others,
            gaps=tuple(self._gaps),
            bad=bad,
        )

    @property
    def _reached(self) -> int:
        return self._point.n if self._point is not None else self._base.n

    def _one(self, raw: bytes, named: int | None) -> None:
        line, place = read_line(self._key, raw)
        if named is not None and line.n != named:
            raise Damaged(f"it is number {line.n} in the file of {named}")
        check_follows(line, self._before(line))
        for one in self._held:
            if one.point.n == line.n and one.point.hash != place.hash:
                raise Damaged(f"{one.by} is another line {line.n}")
        self._first = self._first or line.n
        self._point = place
        if line.decision == Kind.GAP:
            self._gaps.append(line.n)

    def _before(self, line: Line) -> Point:
        """The place that a line must follow; files older than the base are there until they are deleted."""
        if self._point is not None:
            return self._point
        if 0 < line.n <= self._base.n:
            return Point(line.n - 1, _hash_in(line))
        return self._base


def _hash_in(line: Line) -> bytes:
    try:
        return bytes.fromhex(line.previous)
    except ValueError as error:
        raise Damaged("it names no hash of the line before") from error
