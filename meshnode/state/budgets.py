"""What commercial APIs have cost, and what may still be spent, in a SQLite file of its own.

Sums are granted on disk before they are spent: what a request can cost at most is covered by a grant before it is
sent, and a process that is killed leaves its grant behind, which then counts as spent. A grant runs a little ahead
of need, so that few requests wait for the disk; many that do wait for one write together. It decides no more than
whether a sum fits, and knows no HTTP.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from meshnode.errors import BudgetExceeded, HomeUnusable
from meshnode.seams import Blocking
from meshnode.state.migrations import Steps
from meshnode.state.store import connect, in_transaction
from meshnode.terms import NUSD, Spending

BUDGET_FILE = "spending.sqlite"
WRITE_WITHIN_S = 0.5  # after something was settled
MONTHS_KEPT = 24
AHEAD_REQUESTS = 8  # that a grant covers beyond what is needed, of the size of the last
AHEAD_SHARE = 100  # and no more than this part of the month's budget: a kill may cost it

STEPS: Steps = (
    (
        """CREATE TABLE spendings (
            api TEXT NOT NULL,
            month INTEGER NOT NULL,
            known_nusd INTEGER NOT NULL,
            assumed_nusd INTEGER NOT NULL,
            granted_nusd INTEGER NOT NULL,
            requests INTEGER NOT NULL,
            PRIMARY KEY (api, month)
        )""",
    ),
)


@dataclass(slots=True, eq=False)
class _Account:
    """One API's month: what it has cost, what is held, and up to which total that is covered on disk."""

    api: str
    month: int
    known: int = 0
    assumed: int = 0
    open: int = 0
    requests: int = 0
    granted: int = 0
    limit: int = 0
    ahead: int = 0
    changed: bool = False

    @property
    def total(self) -> int:
        """All that counts as spent."""
        return self.known + self.assumed + self.open

    @property
    def wanted(self) -> int:
        """The total to cover from the next write on."""
        return max(self.total, min(self.total + self.ahead, self.limit))


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """What is held for one request, until it is settled."""

    account: _Account
    nusd: int


class Budgets:
    """What each API has cost. Made by `open_budgets`; sums are held only while `keep` runs."""

    def __init__(
        self, connection: sqlite3.Connection, blocking: Blocking, path: Path, accounts: Iterable[_Account]
    ) -> None:
        self._connection, self._blocking, self._path = connection, blocking, path
        self._one_at_a_time = threading.Lock()
        self._accounts = {account.api: account for account in accounts}
        self._former: list[_Account] = []  # of past months, with requests still under way
        self._changed, self._urgent, self._written = trio.Event(), trio.Event(), trio.Event()
        self._failure: HomeUnusable | None = None

    async def aclose(self) -> None:
        """Write what there is and close the file; nothing may be held or settled afterwards. Raises HomeUnusable."""
        try:
            for account in self._every():
                account.ahead, account.changed = 0, True
            await self._write()
        finally:
            await self._blocking(self._connection.close)

    def spending(self, api: str, now_ms: int) -> Spending:
        """What the present month has cost at this API so far."""
        found, month = self._accounts.get(api), month_of(now_ms)
        if found is None or found.month != month:
            return Spending(month)
        return Spending(month, found.known, found.assumed, found.open, found.requests)

    async def hold(self, api: str, nusd: int, limit_nusd: int, now_ms: int) -> Held:
        """Hold this sum within the month's limit; it is covered on disk when this returns.

        Raises BudgetExceeded when it does not fit, HomeUnusable when it cannot be written down.
        """
        account = self._account(api, month_of(now_ms))
        if account.total + nusd > limit_nusd:
            raise BudgetExceeded(
                f"The budget for {api} does not cover this request: it could cost {usd(nusd)} USD, and "
                f"{usd(max(0, limit_nusd - account.total))} of {usd(limit_nusd)} are left this month.",
                hint="Ask for a shorter answer (max_tokens), or raise monthly_usd in its [[cloud]] table.",
            )
        account.open += nusd
        account.limit, account.ahead = limit_nusd, min(AHEAD_REQUESTS * nusd, limit_nusd // AHEAD_SHARE)
        try:
            while account.total > account.granted:
                await self._cover(account)
        except BaseException:
            account.open -= nusd
            raise
        if account.granted < account.total + account.ahead // 2:
            self._note(account)
        return Held(account, nusd)

    def settle(self, held: Held, nusd: int | None) -> None:
        """End what is held: it has cost this much, or, with None, perhaps all of it."""
        account = held.account
        account.open -= held.nusd
        account.known += nusd or 0
        account.assumed += held.nusd if nusd is None else 0
        account.requests += 1
        self._note(account)

    async def keep(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what changes, at once for those who wait for it, for as long as this runs."""
        task_status.started()
        while True:
            await self._changed.wait()
            with trio.move_on_after(WRITE_WITHIN_S):
                await self._urgent.wait()
            self._changed, self._urgent, written = trio.Event(), trio.Event(), self._written
            self._written = trio.Event()
            try:
                await self._write()
                self._failure = None
            except HomeUnusable as error:
                self._failure = error
            written.set()

    # --- Within ---

    def _account(self, api: str, month: int) -> _Account:
        account = self._accounts.get(api)
        if account is None or account.month != month:
            if account is not None:
                self._former.append(account)
            account = self._accounts[api] = _Account(api, month)
        return account

    def _every(self) -> Iterable[_Account]:
        return (*self._former, *self._accounts.values())

    def _note(self, account: _Account) -> None:
        account.changed = True
        self._changed.set()

    async def _cover(self, account: _Account) -> None:
        """Wait for the next write. Raises HomeUnusable when it failed."""
        self._note(account)
        self._urgent.set()
        await self._written.wait()
        if self._failure is not None:
            raise self._failure

    async def _write(self) -> None:
        """Write every account that has changed; what it grants holds once this returns."""
        accounts = [account for account in self._every() if account.changed]
        rows = [(one.api, one.month, one.known, one.assumed, one.wanted, one.requests) for one in accounts]
        for account, row in zip(accounts, rows, strict=True):
            account.changed = False
            account.granted = min(
                account.granted, row[4]
            )  # nobody may rely on more than is about to be there
        try:
            await self._run(lambda db: _write_rows(db, rows))
        except HomeUnusable:
            for account in accounts:
                account.changed = True
            raise
        for account, row in zip(accounts, rows, strict=True):
            account.granted = row[4]
        self._former = [account for account in self._former if account.open or account.changed]

    async def _run(self, work: Callable[[sqlite3.Connection], None]) -> None:
        await self._blocking(lambda: in_transaction(self._connection, self._one_at_a_time, self._path, work))


async def open_budgets(home: Path, blocking: Blocking, now_ms: int) -> Budgets:
    """The budgets of this home, whose file is made if need be. Raises HomeUnusable.

    What a former process was granted and did not settle counts as spent from now on.
    """
    path = home / BUDGET_FILE
    connection = await blocking(lambda: connect(path, STEPS))
    lock, month = threading.Lock(), month_of(now_ms)
    accounts = await blocking(lambda: in_transaction(connection, lock, path, lambda db: _load(db, month)))
    return Budgets(connection, blocking, path, accounts)


def month_of(now_ms: int) -> int:
    """The calendar month, in UTC, as a number such as 202611."""
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    return moment.year * 100 + moment.month


def usd(nusd: int) -> str:
    """A sum for people, as short as it can be said."""
    return f"{nusd / NUSD:.9f}".rstrip("0").rstrip(".")


def _write_rows(db: sqlite3.Connection, rows: Iterable[tuple[str, int, int, int, int, int]]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO spendings (api, month, known_nusd, assumed_nusd, granted_nusd, requests) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        rows,
    )


def _load(db: sqlite3.Connection, month: int) -> list[_Account]:
    db.execute("UPDATE spendings SET assumed_nusd = max(assumed_nusd, granted_nusd - known_nusd)")
    db.execute(
        "DELETE FROM spendings WHERE month NOT IN "
        "(SELECT DISTINCT month FROM spendings ORDER BY month DESC LIMIT ?)",
        (MONTHS_KEPT,),
    )
    found = db.execute(
        "SELECT api, month, known_nusd, assumed_nusd, requests FROM spendings WHERE month = ?", (month,)
    ).fetchall()
    return [
        _Account(api, month, known, assumed, 0, requests, granted=known + assumed)
        for api, month, known, assumed, requests in found
    ]
