"""Signed records that must outlive a restart, by kind and name. SQL only; what they say is for others."""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from meshwire.limits import RECORDS_TOTAL

KEPT_MAX = RECORDS_TOTAL  # of a kind; of more, those go first that end first


class Kept(NamedTuple):
    """A raw record. `until_ms` is when it is of no use any more, in unix milliseconds."""

    name: str
    raw: bytes
    until_ms: int


def keep(db: sqlite3.Connection, kind: str, records: Iterable[Kept], now_ms: int) -> None:
    """Put records in, each in the place of the one with its name, and forget what is over."""
    db.executemany(
        "INSERT OR REPLACE INTO kept (kind, name, raw, until_ms) VALUES (?, ?, ?, ?)",
        [(kind, *record) for record in records],
    )
    db.execute("DELETE FROM kept WHERE until_ms < ?", (now_ms,))
    db.execute(
        "DELETE FROM kept WHERE kind = ? AND name IN "
        "(SELECT name FROM kept WHERE kind = ? ORDER BY until_ms DESC, name LIMIT -1 OFFSET ?)",
        (kind, kind, KEPT_MAX),
    )


def kept(db: sqlite3.Connection, kind: str) -> list[bytes]:
    """All raw records of a kind, by name."""
    rows = db.execute("SELECT raw FROM kept WHERE kind = ? ORDER BY name", (kind,))
    return [bytes(row[0]) for row in rows]


def forget_all(db: sqlite3.Connection) -> None:
    """Forget everything that was kept: it belonged to a mesh that was left."""
    db.execute("DELETE FROM kept")
