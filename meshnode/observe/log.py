"""Logging: human lines on a terminal, one JSON object a line otherwise; prompts never reach it.

What may be logged is decided here and not at each call: values that are not plain (a Job, a Turn, an answer)
are reduced to the name of their type, and fields named like content or secrets are withheld.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import structlog

from meshnode.errors import HomeUnusable
from meshnode.observe.tail import TAIL
from meshnode.seams import Seams

FIELD_CHARACTERS_MAX = 500
TRACE_CHARACTERS_MAX = 4000
FIELDS_MAX = 32
FILE_NAME = "node.log"
FILE_BYTES_MAX = 10 * 1024 * 1024
WITHHELD = "<withheld>"
WITHHELD_FIELDS = frozenset(
    {
        "answer",
        "body",
        "content",
        "messages",
        "password",
        "piece",
        "pieces",
        "private",
        "prompt",
        "secret",
    }
    | {"seed", "text", "ticket", "token", "turn", "turns"}
)

Level = Literal["debug", "info", "warning", "error"]
_LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_UNTOUCHED = ("event", "level", "time", "exception")

Fields = MutableMapping[str, Any]
Processor = Callable[[Any, str, Fields], Fields]


class RollingFile:
    """A log file of bounded size: when full it becomes `node.log.1`, replacing the one before."""

    def __init__(self, path: Path, bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._open()
        except OSError as error:
            raise HomeUnusable(f"The log {path} cannot be written: {error.strerror}.") from error

    def write(self, text: str) -> int:
        """Append, rolling over first if the file would grow past its bound."""
        if self._file.tell() + len(text) > self._bytes_max:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._open()
        return self._file.write(text)

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._file.flush()

    def close(self) -> None:
        """Stop writing."""
        self._file.close()

    def _open(self) -> TextIO:
        file = self._path.open("a", encoding="utf-8", errors="backslashreplace")
        self._path.chmod(0o600)
        return file


class _StandardError:
    """Whatever standard error is at the moment of writing."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


def configure(
    *, wall: Callable[[], float], out: TextIO | RollingFile | None = None, level: Level = "info"
) -> None:
    """Set logging up for this process, on standard error unless `out` says otherwise.

    `wall` gives unix seconds. Lines are for people when `out` is a terminal, JSON otherwise.
    """
    target = _StandardError() if out is None else out
    human = not isinstance(target, RollingFile) and target.isatty()
    structlog.configure(
        processors=_processors(wall, human=human),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # The factory only ever calls write and flush, which both kinds have.
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", target)),
        cache_logger_on_first_use=False,
    )


def to_file(home: Path) -> RollingFile:
    """The log file of this home, for `configure`. Raises HomeUnusable."""
    return RollingFile(home / FILE_NAME)


def get(room: str) -> structlog.typing.FilteringBoundLogger:
    """A logger that names the room it speaks for."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(room=room)
    return logger


def _processors(wall: Callable[[], float], *, human: bool) -> list[structlog.typing.Processor]:
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(timestamp_key="time", exception_formatter=structlog.dev.plain_traceback)
        if human
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    return [
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        _timestamped(wall, human=human),
        _withheld,
        _bounded,
        _kept,
        last,
    ]


def _timestamped(wall: Callable[[], float], *, human: bool) -> Processor:
    def stamp(_logger: Any, _method: str, fields: Fields) -> Fields:
        moment = datetime.fromtimestamp(wall(), tz=UTC)
        fields["time"] = f"{moment:%H:%M:%S}" if human else moment.isoformat(timespec="milliseconds")
        return fields

    return stamp


def _withheld(_logger: Any, _method: str, fields: Fields) -> Fields:
    for name in fields:
        if name in WITHHELD_FIELDS:
            fields[name] = WITHHELD
    return fields


def _bounded(_logger: Any, _method: str, fields: Fields) -> Fields:
    kept = [name for name in fields if name not in _UNTOUCHED][:FIELDS_MAX]
    bounded = {name: plain(fields[name]) for name in kept}
    bounded.update({name: _cut(str(fields[name]), _length(name)) for name in _UNTOUCHED if name in fields})
    return bounded


def _kept(_logger: Any, _method: str, fields: Fields) -> Fields:
    TAIL.keep(fields)
    return fields


def _length(name: str) -> int:
    return TRACE_CHARACTERS_MAX if name == "exception" else FIELD_CHARACTERS_MAX


def plain(value: object) -> object:
    """The value as it may be logged: numbers as they are, text and bytes cut, the rest by its type's name."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _cut(value, FIELD_CHARACTERS_MAX)
    if isinstance(value, bytes):
        return _cut(value[:FIELD_CHARACTERS_MAX].hex(), FIELD_CHARACTERS_MAX)
    if isinstance(value, BaseException):
        return _cut(f"{type(value).__name__}: {value}", FIELD_CHARACTERS_MAX)
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return _cut(", ".join(str(item) for item in value[:FIELD_CHARACTERS_MAX]), FIELD_CHARACTERS_MAX)
    if isinstance(value, Mapping):
        return f"<{len(value)} entries>"
    return f"<{type(value).__name__}>"


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


if (
    not structlog.is_configured()
):  # structlog's own defaults print local variables, and prompts are among them
    configure(wall=Seams().wall, level="warning")
