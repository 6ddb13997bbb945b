"""How the store's tables came to be, one step a version. It knows no rows: a step is only ever appended."""

import sqlite3
from pathlib import Path

from meshnode.errors import HomeUnusable

Steps = tuple[tuple[str, ...], ...]
STEPS: Steps = (
    (
        "CREATE TABLE seq (one INTEGER PRIMARY KEY CHECK (one = 1), value INTEGER NOT NULL)",
        "INSERT INTO seq (one, value) VALUES (1, 0)",
        """CREATE TABLE tickets (
            id BLOB PRIMARY KEY,
            mac_key BLOB NOT NULL,
            expires_ms INTEGER NOT NULL,
            labels BLOB NOT NULL,
            redeemed_by BLOB NOT NULL,
            certificate BLOB NOT NULL
        )""",
        """CREATE TABLE mesh (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            id BLOB NOT NULL,
            root_key BLOB,
            name TEXT NOT NULL,
            chain BLOB NOT NULL
        )""",
        "CREATE TABLE settings (key TEXT PRIMARY KEY, value BLOB NOT NULL)",
        """CREATE TABLE addresses (
            node BLOB NOT NULL,
            address TEXT NOT NULL,
            worked_ms INTEGER NOT NULL,
            PRIMARY KEY (node, address)
        )""",
    ),
    (
        """CREATE TABLE kept (
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            raw BLOB NOT NULL,
            until_ms INTEGER NOT NULL,
            PRIMARY KEY (kind, name)
        )""",
    ),
    (
        """CREATE TABLE api_keys (
            id TEXT PRIMARY KEY,
            digest BLOB NOT NULL,
            facts BLOB NOT NULL,
            expires_ms INTEGER NOT NULL,
            revoked_ms INTEGER NOT NULL
        )""",
    ),
)


def migrate(connection: sqlite3.Connection, path: Path, steps: Steps = STEPS) -> None:
    """Bring the file to the newest version, each step whole or not at all; HomeUnusable for a newer one."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(steps):
        raise HomeUnusable(
            f"{path} was written by a newer meshnode (version {version}, this one knows {len(steps)}).",
            hint="Update meshnode, or choose another --home.",
        )
    for number, statements in enumerate(steps[version:], start=version + 1):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
