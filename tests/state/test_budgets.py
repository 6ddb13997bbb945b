"""Budgets: what is held, settled and left, after a restart, a kill, a full disk and the turn of a month."""

import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from meshnode.errors import BudgetExceeded, HomeUnusable
from meshnode.seams import in_thread, inline
from meshnode.state import budgets as module
from meshnode.state.budgets import BUDGET_FILE, Budgets, month_of, open_budgets, usd

NOVEMBER = int(datetime(2026, 11, 30, 23, 59, tzinfo=UTC).timestamp() * 1000)
DECEMBER = NOVEMBER + 2 * 60 * 1000
LIMIT = 1_000_000


@asynccontextmanager
async def kept(home: Path, now_ms: int = NOVEMBER, blocking=inline) -> AsyncIterator[Budgets]:
    """Budgets whose sums are written down, closed in order at the end."""
    budgets = await open_budgets(home, blocking, now_ms)
    async with trio.open_nursery() as nursery:
        await nursery.start(budgets.keep)
        yield budgets
        nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await budgets.aclose()


async def hold(budgets: Budgets, nusd: int, limit: int = LIMIT, now_ms: int = NOVEMBER):
    return await budgets.hold("api", nusd, limit, now_ms)


def killed(home: Path, copy: Path) -> Path:
    """The files as a killed process would leave them behind now."""
    copy.mkdir()
    for path in home.glob(f"{BUDGET_FILE}*"):
        shutil.copy(path, copy / path.name)
    return copy


async def test_what_is_held_is_settled_with_what_it_cost_and_survives_a_restart(tmp_path: Path) -> None:
    async with kept(tmp_path) as budgets:
        held = await hold(budgets, 500)
        assert (budgets.spending("api", NOVEMBER).open, budgets.spending("other", NOVEMBER).total) == (500, 0)
        budgets.settle(held, 120)
        budgets.settle(await hold(budgets, 300), None)
        seen = budgets.spending("api", NOVEMBER)
        assert (seen.known, seen.assumed, seen.open, seen.requests) == (120, 300, 0, 2)
    async with kept(tmp_path) as budgets:
        assert budgets.spending("api", NOVEMBER) == seen
    assert stat.S_IMODE((tmp_path / BUDGET_FILE).stat().st_mode) == 0o600


async def test_what_does_not_fit_is_refused_with_both_sums(tmp_path: Path) -> None:
    async with kept(tmp_path) as budgets:
        await hold(budgets, 900_000)
        with pytest.raises(BudgetExceeded, match=r"could cost 0\.0002 USD, and 0\.0001 of 0\.001 are left"):
            await hold(budgets, 200_000)
        await hold(budgets, 100_000)
        assert budgets.spending("api", NOVEMBER).total == LIMIT


async def test_two_hundred_at_once_get_what_fifty_cost(tmp_path: Path) -> None:
    got, most = [], 0

    async def one(budgets: Budgets) -> None:
        nonlocal most
        try:
            got.append(await hold(budgets, LIMIT // 50))
        except BudgetExceeded:
            return
        most = max(most, budgets.spending("api", NOVEMBER).total)

    async with kept(tmp_path, blocking=in_thread) as budgets, trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(one, budgets)
    assert (len(got), most) == (50, LIMIT)


async def test_a_request_is_covered_on_disk_before_it_may_be_sent(tmp_path: Path) -> None:
    async with kept(tmp_path / "home") as budgets:
        for number in range(20):
            await hold(budgets, 30_000)
            copy = killed(tmp_path / "home", tmp_path / f"copy{number}")
            async with kept(copy) as after:
                assert after.spending("api", NOVEMBER).assumed >= 30_000 * (number + 1)


async def test_a_kill_costs_no_more_than_the_grant_that_ran_ahead(tmp_path: Path) -> None:
    async with kept(tmp_path / "home") as budgets:
        for _ in range(10):
            budgets.settle(await hold(budgets, 1000), 10)
        await hold(budgets, 1000)
        await trio.sleep(2 * module.WRITE_WITHIN_S)
        async with kept(killed(tmp_path / "home", tmp_path / "copy")) as after:
            seen = after.spending("api", NOVEMBER)
    assert seen.known == 100
    assert 1000 <= seen.assumed <= 1000 + module.AHEAD_REQUESTS * 1000
    assert seen.assumed <= 1000 + LIMIT // module.AHEAD_SHARE


class Slow:
    """Blocking work that stops in its middle until it is let go."""

    def __init__(self) -> None:
        self.slow = False
        self.at_work, self.go_on = trio.Event(), trio.Event()

    async def __call__(self, work, /):
        if self.slow:
            self.at_work.set()
            await self.go_on.wait()
        return await inline(work)


async def test_nobody_relies_on_a_grant_that_is_being_made_smaller(tmp_path: Path) -> None:
    slow = Slow()
    async with kept(tmp_path / "home", blocking=slow) as budgets:
        held = await hold(budgets, 500_000)  # on disk: as much, and a little more
        slow.slow = True
        budgets.settle(held, 0)
        await slow.at_work.wait()  # about to write that hardly anything is granted
        got = []

        async def another() -> None:
            got.append(await hold(budgets, 400_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(another)
            await trio.testing.wait_all_tasks_blocked()
            assert got == []
            slow.slow = False
            slow.go_on.set()
        async with kept(killed(tmp_path / "home", tmp_path / "copy")) as after:
            assert after.spending("api", NOVEMBER).assumed >= 400_000


async def test_whoever_leaves_while_it_is_written_holds_nothing(tmp_path: Path) -> None:
    slow = Slow()
    async with kept(tmp_path, blocking=slow) as budgets:
        slow.slow = True
        with trio.move_on_after(1):
            await hold(budgets, 1000)
        assert budgets.spending("api", NOVEMBER).total == 0
        slow.slow = False
        slow.go_on.set()


async def test_a_disk_that_takes_nothing_refuses_the_request_and_then_recovers(tmp_path: Path) -> None:
    broken = [False]

    async def blocking(work, /):
        if broken[0]:
            raise HomeUnusable("The disk is full.")
        return await inline(work)

    async with kept(tmp_path, blocking=blocking) as budgets:
        broken[0] = True
        with pytest.raises(HomeUnusable):
            await hold(budgets, 1000)
        assert budgets.spending("api", NOVEMBER).total == 0
        broken[0] = False
        await hold(budgets, 1000)


async def test_a_new_month_has_its_whole_budget_and_the_old_one_is_settled_for_itself(tmp_path: Path) -> None:
    async with kept(tmp_path) as budgets:
        held = await hold(budgets, LIMIT)
        assert (month_of(NOVEMBER), month_of(DECEMBER)) == (202611, 202612)
        await hold(budgets, LIMIT, now_ms=DECEMBER)
        budgets.settle(held, 7)
        assert budgets.spending("api", DECEMBER).total == LIMIT
        assert budgets.spending("api", NOVEMBER).total == 0  # is over, and no longer kept in memory
    rows = sqlite3.connect(tmp_path / BUDGET_FILE).execute(
        "SELECT month, known_nusd FROM spendings ORDER BY 1"
    )
    assert rows.fetchall() == [(202611, 7), (202612, 0)]


async def test_only_so_many_months_are_kept(tmp_path: Path) -> None:
    async with kept(tmp_path):
        pass
    db = sqlite3.connect(tmp_path / BUDGET_FILE)
    with db:
        db.executemany(
            "INSERT INTO spendings VALUES ('api', ?, 1, 0, 1, 1)", [(200_000 + n,) for n in range(60)]
        )
    db.close()
    async with kept(tmp_path):
        pass
    db = sqlite3.connect(tmp_path / BUDGET_FILE)
    assert db.execute("SELECT count(*) FROM spendings").fetchone() == (module.MONTHS_KEPT,)
    db.close()


def test_sums_are_said_in_dollars() -> None:
    assert [usd(nusd) for nusd in (0, 1, 150_000_000, 2_000_000_000)] == ["0", "0.000000001", "0.15", "2"]
