"""What the node must not forget, in one SQLite file: its seq, tickets, mesh, settings and known addresses.

It decides nothing. Every call runs through the Blocking seam, one at a time, in one transaction of its own.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgpack

from meshnode.errors import HomeUnusable
from meshnode.seams import Blocking
from meshnode.state import kept, keys
from meshnode.state.kept import Kept
from meshnode.state.migrations import STEPS, Steps, migrate
from meshnode.trust.keys import KeyRow
from meshnode.trust.membership import Mesh
from meshnode.trust.tickets import TicketRow

STORE_FILE = "state.sqlite"
BUSY_S = 5.0
TICKETS_MAX = 1000
TICKETS_KEPT_MS = 30 * 24 * 3600 * 1000  # a used or expired ticket can still say so for this long
ADDRESSES_MAX = 512

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class Store:
    """The node's memory. Every method raises HomeUnusable when the file cannot be read or written."""

    def __init__(self, connection: sqlite3.Connection, blocking: Blocking, path: Path) -> None:
        self._connection = connection
        self._blocking = blocking
        self._path = path
        self._one_at_a_time = threading.Lock()

    async def aclose(self) -> None:
        """Close the file. The store must not be used afterwards."""
        await self._blocking(self._close)

    # --- the seq counter ---

    async def next_seq(self, now_ms: int) -> int:
        """The next seq for a record of this node: never one twice, nor below unix milliseconds."""
        return await self._run(lambda db: _next_seq(db, now_ms))

    async def raise_seq(self, floor: int) -> None:
        """Learn that `floor` has been used (a peer remembers it, and this disk is older)."""
        await self._run(lambda db: _raise_seq(db, floor))

    # --- tickets ---

    async def add_ticket(self, row: TicketRow, now_ms: int) -> None:
        """Remember a ticket just made, and forget those long over."""
        await self._run(lambda db: _add_ticket(db, row, now_ms))

    async def ticket(self, identifier: bytes) -> TicketRow | None:
        """The ticket with this id, or None."""
        return await self._run(lambda db: _ticket(db, identifier))

    async def redeem_ticket(self, identifier: bytes, key: bytes, certificate: bytes) -> TicketRow | None:
        """Commit that `key` used the ticket, unless it has been used already; the row as it is afterwards.

        It is on disk when this returns: a crash between commit and reply costs a retry, never a second
        device.
        """
        return await self._run(lambda db: _redeem_ticket(db, identifier, key, certificate))

    async def certificates(self) -> list[bytes]:
        """The raw certificates that this node has signed for tickets, the oldest first."""
        return await self._run(_certificates)

    # --- the mesh ---

    async def mesh(self) -> Mesh | None:
        """The mesh this node belongs to, or None."""
        return await self._run(_mesh)

    async def save_mesh(self, mesh: Mesh) -> None:
        """Remember the mesh, in place of any other."""
        await self._run(lambda db: _save_mesh(db, mesh))

    async def forget_mesh(self) -> None:
        """Forget the mesh, and the addresses and tickets that belonged to it."""
        await self._run(_forget_mesh)

    # --- records that outlive a restart ---

    async def keep(self, kind: str, records: Sequence[Kept], now_ms: int) -> None:
        """Keep signed records of a kind; see `meshnode.state.kept`."""
        await self._run(lambda db: kept.keep(db, kind, records, now_ms))

    async def kept(self, kind: str) -> list[bytes]:
        """The raw records of a kind."""
        return await self._run(lambda db: kept.kept(db, kind))

    # --- API keys ---

    async def add_key(self, row: KeyRow, now_ms: int) -> bool:
        """Remember a key just made; False where there are too many. See `meshnode.state.keys`."""
        return await self._run(lambda db: keys.add(db, row, now_ms))

    async def keys(self) -> list[KeyRow]:
        """Every key, the oldest first, also those that are over."""
        return await self._run(keys.every)

    async def revoke_key(self, identifier: str, now_ms: int) -> None:
        """Note that a key is good for nothing from now on; it is on disk when this returns."""
        await self._run(lambda db: keys.revoke(db, identifier, now_ms))

    # --- settings ---

    async def setting(self, key: str) -> bytes | None:
        """The value last stored under `key`, or None."""
        return await self._run(lambda db: _setting(db, key))

    async def put_setting(self, key: str, value: bytes) -> None:
        """Store a value under `key`."""
        await self._run(lambda db: _put_setting(db, key, value))

    # --- addresses ---

    async def addresses(self) -> list[tuple[bytes, str]]:
        """Known (NodeId, address) pairs, the last that worked first."""
        return await self._run(_addresses)

    async def put_address(self, node: bytes, address: str, now_ms: int) -> None:
        """Remember that `address` reached `node`; only the newest ADDRESSES_MAX are kept."""
        await self._run(lambda db: _put_address(db, node, address, now_ms))

    async def _run(self, work: Work[T]) -> T:
        return await self._blocking(
            lambda: in_transaction(self._connection, self._one_at_a_time, self._path, work)
        )

    def _close(self) -> None:
        with self._one_at_a_time:
            self._connection.close()


async def open_store(home: Path, blocking: Blocking, *, durable: bool = True) -> Store:
    """The store of this home, made or brought up to date first; raises HomeUnusable."""
    path = home / STORE_FILE
    return Store(await blocking(lambda: connect(path, durable=durable)), blocking, path)


def private_file(path: Path) -> None:
    """Make a file that nobody else may read, if it is not there; raises OSError.

    SQLite gives its side files the mode of the main one, so it must be private before SQLite sees it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def in_transaction(connection: sqlite3.Connection, lock: threading.Lock, path: Path, work: Work[T]) -> T:
    """Do the work as a whole or not at all, one at a time. Raises HomeUnusable."""
    try:
        with lock, connection:
            connection.execute("BEGIN IMMEDIATE")
            return work(connection)
    except sqlite3.Error as error:
        raise unusable(path, error) from error


def connect(path: Path, steps: Steps = STEPS, *, durable: bool = True) -> sqlite3.Connection:
    """A private file with the tables of these steps, made or brought up to date first. Raises HomeUnusable.

    What is not `durable` outlives the process, but no power cut: the disk is not waited for.
    """
    try:
        private_file(path)
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise unusable(path, error) from error
    try:
        _prepare(connection, path, steps, durable)
    except sqlite3.Error as error:
        connection.close()
        raise unusable(path, error) from error
    except HomeUnusable:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, steps: Steps, durable: bool) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # A redeemed ticket must survive a power cut.
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, path, steps)


def unusable(path: Path, error: Exception) -> HomeUnusable:
    """What to tell of a file of the home that cannot be used."""
    return HomeUnusable(
        f"{path} cannot be used: {error}.",
        hint="Is the disk full, or the directory not yours? If the file is damaged, move it away.",
    )


def _next_seq(db: sqlite3.Connection, now_ms: int) -> int:
    row = db.execute("UPDATE seq SET value = max(value + 1, ?) RETURNING value", (now_ms,)).fetchone()
    return int(row[0])


def _raise_seq(db: sqlite3.Connection, floor: int) -> None:
    db.execute("UPDATE seq SET value = max(value, ?)", (floor,))


def _add_ticket(db: sqlite3.Connection, row: TicketRow, now_ms: int) -> None:
    db.execute("DELETE FROM tickets WHERE expires_ms < ?", (now_ms - TICKETS_KEPT_MS,))
    db.execute(
        "DELETE FROM tickets WHERE id IN (SELECT id FROM tickets ORDER BY expires_ms DESC LIMIT -1 OFFSET ?)",
        (TICKETS_MAX - 1,),
    )
    db.execute(
        "INSERT INTO tickets (id, mac_key, expires_ms, labels, redeemed_by, certificate) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (row.id, row.mac_key, row.expires_ms, msgpack.packb(row.labels), row.redeemed_by, row.certificate),
    )


def _ticket(db: sqlite3.Connection, identifier: bytes) -> TicketRow | None:
    found = db.execute(
        "SELECT id, mac_key, expires_ms, labels, redeemed_by, certificate FROM tickets WHERE id = ?",
        (identifier,),
    ).fetchone()
    if found is None:
        return None
    row, key, expires_ms, labels, redeemed_by, certificate = found
    return TicketRow(row, key, expires_ms, tuple(msgpack.unpackb(labels)), redeemed_by, certificate)


def _redeem_ticket(
    db: sqlite3.Connection, identifier: bytes, key: bytes, certificate: bytes
) -> TicketRow | None:
    db.execute(
        "UPDATE tickets SET redeemed_by = ?, certificate = ? WHERE id = ? AND redeemed_by = x''",
        (key, certificate, identifier),
    )
    return _ticket(db, identifier)


def _certificates(db: sqlite3.Connection) -> list[bytes]:
    rows = db.execute("SELECT certificate FROM tickets WHERE certificate != x'' ORDER BY rowid")
    return [bytes(row[0]) for row in rows]


def _mesh(db: sqlite3.Connection) -> Mesh | None:
    found = db.execute("SELECT id, root_key, name, chain FROM mesh").fetchone()
    if found is None:
        return None
    identifier, root_key, name, chain = found
    return Mesh(identifier, root_key, name, tuple(msgpack.unpackb(chain)))


def _save_mesh(db: sqlite3.Connection, mesh: Mesh) -> None:
    db.execute(
        "INSERT OR REPLACE INTO mesh (one, id, root_key, name, chain) VALUES (1, ?, ?, ?, ?)",
        (mesh.id, mesh.root_key, mesh.name, msgpack.packb(mesh.chain)),
    )


def _forget_mesh(db: sqlite3.Connection) -> None:
    for statement in ("DELETE FROM mesh", "DELETE FROM addresses", "DELETE FROM tickets"):
        db.execute(statement)
    kept.forget_all(db)


def _setting(db: sqlite3.Connection, key: str) -> bytes | None:
    found = db.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return None if found is None else bytes(found[0])


def _put_setting(db: sqlite3.Connection, key: str, value: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))


def _addresses(db: sqlite3.Connection) -> list[tuple[bytes, str]]:
    return db.execute("SELECT node, address FROM addresses ORDER BY worked_ms DESC, node, address").fetchall()


def _put_address(db: sqlite3.Connection, node: bytes, address: str, now_ms: int) -> None:
    db.execute(
        "INSERT OR REPLACE INTO addresses (node, address, worked_ms) VALUES (?, ?, ?)",
        (node, address, now_ms),
    )
    db.execute(
        "DELETE FROM addresses WHERE rowid IN "
        "(SELECT rowid FROM addresses ORDER BY worked_ms DESC, node, address LIMIT -1 OFFSET ?)",
        (ADDRESSES_MAX,),
    )
