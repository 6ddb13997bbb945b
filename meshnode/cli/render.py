"""How results look: lines and tables for people, one JSON object a line for programs.

Text from other machines is made printable first: a peer's name must not move the cursor.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from meshnode.api.control_socket import failure_of
from meshnode.cli.spelling import spelt
from meshnode.errors import MeshError

WIDTH_PLAIN = 240  # without a terminal nothing needs to fit, and nothing may be cut
LINE_CHARACTERS_MAX = 2000
PLAIN_STEP = 0.25


class Screen:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)
        self._progress = ProgressLines(self._err)

    def json(self, data: object) -> None:
        """One JSON object on one line, if JSON was asked for."""
        if self.as_json:
            _write(msgspec.json.encode(data).decode() + "\n")

    def line(self, text: str = "") -> None:
        """One line for people, if JSON was not asked for."""
        if not self.as_json:
            self._progress.stop()
            self._out.print(visible(spelt(text))[:LINE_CHARACTERS_MAX], soft_wrap=True)

    def note(self, text: str) -> None:
        """One line for people beside what was asked for, on standard error, if JSON was not asked for."""
        if not self.as_json:
            self._progress.stop()
            self._err.print(f"note: {visible(spelt(text))}", soft_wrap=True)

    def aside(self, text: str) -> None:
        """One line about an answer, on standard error, so that what reads the answer gets it alone."""
        if not self.as_json:
            self._err.print(f"[{visible(text)}]", soft_wrap=True, style="dim")

    def facts(self, rows: Mapping[str, str]) -> None:
        """Names and values below each other; empty values are left out."""
        width = max((len(name) for name in rows), default=0)
        for name, value in rows.items():
            if value:
                self.line(f"{name:<{width}}  {value}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people."""
        if self.as_json:
            return
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*map(visible, row))
        self._out.print(table)

    def text(self, text: str) -> None:
        """Part of an answer, as it comes."""
        if not self.as_json:
            _write(visible(text, keep="\n\t"))

    @property
    def columns(self) -> int:
        """How wide the terminal is; 0 where standard output is none."""
        return self._out.width if self._out.is_terminal else 0

    def drawing(self, lines: Sequence[str]) -> None:
        """Lines that were made here, with the colours in them; never text from elsewhere."""
        if not self.as_json:
            _write("".join(f"{line}\n" for line in lines))

    def progress(self, event: Mapping[str, Any]) -> None:
        """How far something is: a bar on a terminal, a line now and then without one."""
        if self.as_json:
            self.json(event)
        else:
            self._progress.show(event)

    def error(self, error: MeshError) -> None:
        """What went wrong and what to do next."""
        self._progress.stop()
        self.json({"error": failure_of(error)})
        if not self.as_json:
            self._err.print(f"error: {visible(spelt(error.message))}", soft_wrap=True)
            if error.hint:
                self._err.print(f"hint: {visible(spelt(error.hint))}", soft_wrap=True)


class ProgressLines:
    """What is under way, by step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def show(self, event: Mapping[str, Any]) -> None:
        """Take note of `step`, `done` and `total`, as far as the event has them."""
        step = visible(str(event.get("step", "working")))
        done, total = float(event.get("done") or 0), float(event.get("total") or 0)
        if self._console.is_terminal:
            self._move_bar(step, done, total)
        else:
            self._say(step, done / total if total else 0.0, _pace(event))

    def stop(self) -> None:
        """Take the bars away; what is printed next stands in their place."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def _move_bar(self, step: str, done: float, total: float) -> None:
        if self._bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
            speed = (TransferSpeedColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, *speed, console=self._console, transient=True)
            self._bars.start()
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=None)
        self._bars.update(self._tasks[step], completed=done, total=total or None)

    def _say(self, step: str, share: float, pace: str) -> None:
        if step not in self._said or share >= self._said[step] + PLAIN_STEP:
            self._said[step] = share
            self._console.print(f"{step} {share:.0%}{pace}" if share else f"{step} …", soft_wrap=True)


def _pace(event: Mapping[str, Any]) -> str:
    """How fast it goes and how long it takes still, where the event says so."""
    speed, left_s = float(event.get("bytes_per_s") or 0), float(event.get("left_s") or 0)
    left = f", {duration(left_s)} left" if left_s else ""
    return f" ({megabytes(int(speed))}/s{left})" if speed else ""


def visible(text: str, keep: str = "") -> str:
    """The text without what a terminal would obey."""
    return "".join(char if char.isprintable() or char in keep else "�" for char in text)


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def milliseconds(value: float | None) -> str:
    """A duration for people, empty when unknown."""
    return "" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def duration(seconds: float) -> str:
    """A duration for people, in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0 s"


def day(unix_ms: int) -> str:
    """A day for people, in UTC."""
    return f"{datetime.fromtimestamp(unix_ms / 1000, tz=UTC):%Y-%m-%d}"


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_PLAIN
    return console


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
