"""What a node has logged: its last lines, those that come, and those in its file. It logs nothing itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import trio
from msgspec import Meta

from meshnode.control.verbs import Arguments, Emit, Verb, read_arguments
from meshnode.observe.log import Level
from meshnode.observe.log_file import logged
from meshnode.observe.tail import LINES_MAX, LogLine, Tail

FOLLOW_EVERY_S = 0.25
GRAVITY: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
LINE, MISSED = "log", "missed"  # the kinds of events

Fields = Mapping[str, Any]


class LogsArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last `lines` of at least this `level`."""

    lines: Annotated[int, Meta(ge=0, le=LINES_MAX)] = LINES_MAX
    level: Level = "debug"


class FollowArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every line of at least this `level` that comes after number `after`."""

    after: Annotated[int, Meta(ge=0)] = 0
    level: Level = "debug"


class Shown(msgspec.Struct, frozen=True):
    """The number of the newest line when the last ones were shown: those to follow come after it."""

    last: int


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the log. `time` is UTC, `room` the part of the program that speaks, `fields` what it says besides."""

    time: str = ""
    level: str = ""
    room: str = ""
    event: str = ""
    fields: dict[str, Any] = {}


def record_of(fields: Fields) -> LogRecord:
    """A line as it is shown, from its fields as they were logged."""
    named = {name: str(fields.get(name, "")) for name in ("time", "level", "room", "event")}
    return LogRecord(**named, fields={name: value for name, value in fields.items() if name not in named})


def is_grave(fields: Fields, level: Level) -> bool:
    """Whether a line is of at least this level; one of a level that nobody knows always is."""
    return GRAVITY.get(str(fields.get("level")), GRAVITY["critical"]) >= GRAVITY[level]


def last_logged(home: Path, count: int, level: Level) -> list[dict[str, Any]]:
    """The last `count` lines of at least this level in the file of a home, oldest first. Raises HomeUnusable."""
    return list(deque((fields for fields in logged(home) if is_grave(fields, level)), maxlen=count))


def before(older: Iterable[Fields], newer: list[dict[str, Any]]) -> Iterator[Fields]:
    """Those of `older` that are not among `newer`, which go on where they end or somewhere before."""
    first = str(newer[0].get("time", "")) if newer else ""
    for fields in older:
        time = str(fields.get("time", ""))
        if not first or time < first or (time == first and fields not in newer):
            yield fields


def logs_verbs(tail: Tail) -> dict[str, Verb]:
    """The verbs over the last lines of this process; each line is an event, so that no answer grows too long."""

    async def logs(given: Arguments, emit: Emit) -> Shown:
        asked = read_arguments(LogsArguments, given)
        last, lines = tail.last, tail.after(0)
        for line in deque((line for line in lines if is_grave(line.fields, asked.level)), maxlen=asked.lines):
            await emit(_event_of(line))
        return Shown(last)

    async def follow(given: Arguments, emit: Emit) -> None:
        asked = read_arguments(FollowArguments, given)
        n = asked.after if asked.after <= tail.last else 0  # else they were counted by a process that is gone
        while True:
            for line in tail.after(n):
                if line.n > n + 1:
                    await emit({"event": MISSED, "lines": line.n - n - 1})
                n = line.n
                if is_grave(line.fields, asked.level):
                    await emit(_event_of(line))
            await trio.sleep(FOLLOW_EVERY_S)

    return {"logs": logs, "logs_follow": follow}


def _event_of(line: LogLine) -> dict[str, object]:
    return {"event": LINE, "n": line.n, "fields": line.fields}
