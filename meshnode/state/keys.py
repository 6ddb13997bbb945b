"""API keys as the store has them: digests, never the keys. SQL only; what a key allows is for others."""

import sqlite3

import msgspec

from meshnode.trust.keys import KeyRow

KEYS_MAX = 1000
KEPT_MS = 90 * 24 * 3600 * 1000  # a key that is over can still be told from an unknown one for this long


def add(db: sqlite3.Connection, row: KeyRow, now_ms: int) -> bool:
    """Put a key in, and forget those long over; False where there are too many."""
    over = now_ms - KEPT_MS
    db.execute(
        "DELETE FROM api_keys WHERE (revoked_ms > 0 AND revoked_ms < ?) OR (expires_ms > 0 AND expires_ms < ?)",
        (over, over),
    )
    (count,) = db.execute("SELECT count(*) FROM api_keys").fetchone()
    if count >= KEYS_MAX:
        return False
    db.execute(
        "INSERT INTO api_keys (id, digest, facts, expires_ms, revoked_ms) VALUES (?, ?, ?, ?, ?)",
        (row.id, row.digest, _facts(row), row.expires_ms, row.revoked_ms),
    )
    return True


def _facts(row: KeyRow) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(row, digest=b""))


def every(db: sqlite3.Connection) -> list[KeyRow]:
    """All keys, the oldest first."""
    found = db.execute("SELECT facts, digest, expires_ms, revoked_ms FROM api_keys ORDER BY rowid")
    return [
        msgspec.structs.replace(
            msgspec.json.decode(facts, type=KeyRow),
            digest=bytes(digest),
            expires_ms=expires,
            revoked_ms=revoked,
        )
        for facts, digest, expires, revoked in found
    ]


def revoke(db: sqlite3.Connection, identifier: str, now_ms: int) -> None:
    """Note that a key is good for nothing from now on."""
    db.execute("UPDATE api_keys SET revoked_ms = ? WHERE id = ? AND revoked_ms = 0", (now_ms, identifier))
