"""Kept answers, in an SQLite file of their own: what may be lost without harm, and removed without another thought.

It knows rows and bytes; what may be kept and given again is decided elsewhere. The file is opened on first use. Every
call runs through the Blocking seam, one at a time.
"""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from meshnode.seams import Blocking
from meshnode.state.store import private_file, unusable

ANSWERS_FILE = "answers.sqlite"
SCHEMA = 1  # a file of another is emptied
BUSY_S = 5.0
ROW_BYTES = 400  # what a row takes beside its texts, roughly
ROWS_OF_ASK_MAX = 8  # weights that have answered the same request
TOUCH_EVERY_MS = 60_000  # the order of use is as exact as this, and a hit seldom writes

_TABLES = (
    "DROP TABLE IF EXISTS answers",
    """CREATE TABLE answers (
        ask BLOB NOT NULL,
        weights BLOB NOT NULL,
        namespace BLOB NOT NULL,
        question TEXT NOT NULL,
        body BLOB NOT NULL,
        labels BLOB NOT NULL,
        bytes INTEGER NOT NULL,
        made_ms INTEGER NOT NULL,
        used_ms INTEGER NOT NULL,
        PRIMARY KEY (ask, weights)
    )""",
    "CREATE INDEX answers_near ON answers (namespace, made_ms)",
    "CREATE INDEX answers_used ON answers (used_ms, bytes)",
    f"PRAGMA user_version = {SCHEMA}",
)
T = TypeVar("T")


class AnswerRow(NamedTuple):
    """An answer as it is kept. `ask` and `namespace` are digests; an empty `question` cannot be searched for."""

    ask: bytes
    weights: bytes
    namespace: bytes
    question: str
    body: bytes
    labels: bytes = b""
    made_ms: int = 0

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return ROW_BYTES + len(self.question.encode()) + len(self.body) + len(self.labels)


_COLUMNS = "ask, weights, namespace, question, body, labels, made_ms"


class AnswerStore:
    """The kept answers of a home, at most `bytes_max` of them. Every method raises HomeUnusable."""

    def __init__(self, home: Path, blocking: Blocking, *, bytes_max: int, kept_ms: int) -> None:
        self._path = home / ANSWERS_FILE
        self._blocking = blocking
        self._bytes_max = bytes_max
        self._kept_ms = kept_ms
        self._connection: sqlite3.Connection | None = None
        self._one_at_a_time = threading.Lock()

    async def aclose(self) -> None:
        """Close the file. The next call would open it again."""
        if self._connection is not None:
            await self._blocking(self._close)

    async def of_ask(self, ask: bytes, now_ms: int) -> list[AnswerRow]:
        """The answers to a request that are young enough, the newest first; they count as used."""
        return await self._run(lambda db: _of_ask(db, ask, now_ms, now_ms - self._kept_ms))

    async def near(self, namespace: bytes, now_ms: int, most: int) -> list[AnswerRow]:
        """The newest answers in a namespace that can be searched for and are young enough."""
        return await self._run(lambda db: _near(db, namespace, now_ms - self._kept_ms, most))

    async def put(self, row: AnswerRow, now_ms: int) -> None:
        """Keep an answer in place of an older one, and give up old and long unused ones for it."""
        if row.size <= self._bytes_max:
            await self._run(lambda db: _put(db, row, now_ms, now_ms - self._kept_ms, self._bytes_max))

    async def put_labels(self, ask: bytes, weights: bytes, labels: bytes) -> None:
        """Keep what was learnt of an answer."""
        await self._run(lambda db: _put_labels(db, ask, weights, labels))

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._blocking(lambda: self._in_transaction(work))

    def _in_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._one_at_a_time:
            try:
                connection = self._connection = self._connection or _connect(self._path)
                with connection:
                    connection.execute("BEGIN")
                    return work(connection)
            except sqlite3.Error as error:
                raise unusable(self._path, error) from error

    def _close(self) -> None:
        with self._one_at_a_time:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _connect(path: Path) -> sqlite3.Connection:
    try:
        private_file(path)
    except OSError as error:
        raise unusable(path, error) from error
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is computed again
        if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
            for statement in _TABLES:
                connection.execute(statement)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _rows(cursor: sqlite3.Cursor) -> list[AnswerRow]:
    return [AnswerRow(*row) for row in cursor]


def _of_ask(db: sqlite3.Connection, ask: bytes, now_ms: int, oldest_ms: int) -> list[AnswerRow]:
    found = _rows(
        db.execute(
            f"SELECT {_COLUMNS} FROM answers WHERE ask = ? AND made_ms > ? ORDER BY made_ms DESC LIMIT ?",  # noqa: S608 - columns are constants
            (ask, oldest_ms, ROWS_OF_ASK_MAX),
        )
    )
    if found:
        db.execute(
            "UPDATE answers SET used_ms = ? WHERE ask = ? AND used_ms < ?",
            (now_ms, ask, now_ms - TOUCH_EVERY_MS),
        )
    return found


def _near(db: sqlite3.Connection, namespace: bytes, oldest_ms: int, most: int) -> list[AnswerRow]:
    return _rows(
        db.execute(
            f"SELECT {_COLUMNS} FROM answers WHERE namespace = ? AND made_ms > ? AND question != ''"  # noqa: S608 - columns are constants
            " ORDER BY made_ms DESC LIMIT ?",
            (namespace, oldest_ms, most),
        )
    )


def _put(db: sqlite3.Connection, row: AnswerRow, now_ms: int, oldest_ms: int, bytes_max: int) -> None:
    db.execute("DELETE FROM answers WHERE made_ms <= ?", (oldest_ms,))
    db.execute(
        f"INSERT OR REPLACE INTO answers ({_COLUMNS}, bytes, used_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - columns are constants
        (*row[:-1], now_ms, row.size, now_ms),
    )
    excess = db.execute("SELECT coalesce(sum(bytes), 0) FROM answers").fetchone()[0] - bytes_max
    if excess > 0:
        _give_up(db, excess)


def _give_up(db: sqlite3.Connection, excess: int) -> None:
    """Remove the answers unused for longest, until so many bytes are free."""
    going: list[tuple[int]] = []
    for identifier, size in db.execute("SELECT rowid, bytes FROM answers ORDER BY used_ms, rowid"):
        going.append((identifier,))
        excess -= size
        if excess <= 0:
            break
    db.executemany("DELETE FROM answers WHERE rowid = ?", going)


def _put_labels(db: sqlite3.Connection, ask: bytes, weights: bytes, labels: bytes) -> None:
    db.execute("UPDATE answers SET labels = ? WHERE ask = ? AND weights = ?", (labels, ask, weights))
