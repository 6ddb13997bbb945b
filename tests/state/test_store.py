"""The store: what is written is there after a restart, once, in private, and within bounds."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshnode.errors import HomeUnusable
from meshnode.seams import in_thread, inline
from meshnode.state import kept as kept_module
from meshnode.state import store as store_module
from meshnode.state.kept import Kept
from meshnode.state.migrations import STEPS
from meshnode.state.store import STORE_FILE, Store, open_store
from meshnode.trust.membership import Mesh
from meshnode.trust.tickets import TicketRow

NOW = 1_700_000_000_000
A, B = b"a" * 32, b"b" * 32


def ticket(number: int = 1, *, expires_ms: int = NOW) -> TicketRow:
    return TicketRow(number.to_bytes(8, "big"), b"m" * 32, expires_ms, ("trusted", "lab"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path, inline)
    yield opened
    await opened.aclose()


async def reopen(store: Store, home: Path) -> Store:
    await store.aclose()
    return await open_store(home, inline)


async def test_seq_only_rises_also_across_restarts(store: Store, tmp_path: Path) -> None:
    assert await store.next_seq(NOW) == NOW
    assert await store.next_seq(NOW - 5) == NOW + 1
    assert await store.next_seq(NOW + 100) == NOW + 100
    again = await reopen(store, tmp_path)
    assert await again.next_seq(NOW) == NOW + 101


async def test_a_floor_learnt_from_a_peer_is_kept(store: Store) -> None:
    await store.raise_seq(NOW + 1000)
    await store.raise_seq(5)
    assert await store.next_seq(NOW) == NOW + 1001


async def test_a_ticket_is_redeemed_once(store: Store, tmp_path: Path) -> None:
    await store.add_ticket(ticket(), NOW)
    assert await store.ticket(ticket().id) == ticket()
    first = await store.redeem_ticket(ticket().id, A, b"certificate")
    assert first is not None
    assert (first.redeemed_by, first.certificate) == (A, b"certificate")
    assert await store.redeem_ticket(ticket().id, B, b"another") == first
    again = await reopen(store, tmp_path)
    assert await again.ticket(ticket().id) == first
    assert await again.redeem_ticket(b"unknown!", A, b"") is None
    await again.aclose()


async def test_a_redemption_is_on_disk_before_it_is_told(store: Store, tmp_path: Path) -> None:
    await store.add_ticket(ticket(), NOW)
    await store.redeem_ticket(ticket().id, A, b"certificate")
    other = sqlite3.connect(tmp_path / STORE_FILE)  # another process, which sees only what was committed
    assert other.execute("SELECT redeemed_by FROM tickets").fetchall() == [(A,)]
    other.close()


async def test_of_many_at_once_one_redeems(tmp_path: Path) -> None:
    store = await open_store(tmp_path, in_thread)
    await store.add_ticket(ticket(), NOW)
    winners: list[bytes] = []

    async def redeem(key: bytes) -> None:
        row = await store.redeem_ticket(ticket().id, key, key)
        assert row is not None
        winners.append(row.redeemed_by)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(redeem, bytes([number]) * 32)
    assert len(set(winners)) == 1
    await store.aclose()


async def test_tickets_are_bounded_and_old_ones_forgotten(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "TICKETS_MAX", 3)
    for number in range(6):
        await store.add_ticket(ticket(number, expires_ms=NOW + number), NOW)
    assert [n for n in range(6) if await store.ticket(ticket(n).id)] == [3, 4, 5]
    await store.add_ticket(ticket(7), NOW + store_module.TICKETS_KEPT_MS + 100)
    assert await store.ticket(ticket(5).id) is None


async def test_the_mesh_is_one_and_can_be_left(store: Store, tmp_path: Path) -> None:
    assert await store.mesh() is None
    open_mesh, closed = Mesh(b"i" * 16, None), Mesh(b"j" * 16, A, "home", (b"mine", b"issuer"))
    for mesh in (open_mesh, closed):
        await store.save_mesh(mesh)
        assert await store.mesh() == mesh
    store = await reopen(store, tmp_path)
    assert await store.mesh() == closed
    await store.add_ticket(ticket(), NOW)
    await store.put_address(b"n" * 20, "ws://a:1", NOW)
    seq = await store.next_seq(NOW)
    await store.forget_mesh()
    assert await store.mesh() is None
    assert await store.ticket(ticket().id) is None
    assert await store.addresses() == []
    assert await store.next_seq(0) > seq
    await store.aclose()


async def test_settings(store: Store) -> None:
    assert await store.setting("k") is None
    await store.put_setting("k", b"1")
    await store.put_setting("k", b"2")
    assert await store.setting("k") == b"2"


async def test_addresses_are_newest_first_and_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "ADDRESSES_MAX", 2)
    await store.put_address(A[:20], "ws://a:1", NOW)
    await store.put_address(B[:20], "ws://b:1", NOW + 1)
    await store.put_address(A[:20], "ws://a:1", NOW + 2)
    assert await store.addresses() == [(A[:20], "ws://a:1"), (B[:20], "ws://b:1")]
    await store.put_address(A[:20], "ws://a:2", NOW + 3)
    assert await store.addresses() == [(A[:20], "ws://a:2"), (A[:20], "ws://a:1")]


def modes_in(home: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()}


async def test_every_file_of_it_is_private(store: Store, tmp_path: Path) -> None:
    await store.next_seq(NOW)
    modes = modes_in(tmp_path)
    assert set(modes) >= {STORE_FILE, f"{STORE_FILE}-wal"}
    assert set(modes.values()) == {0o600}


async def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / STORE_FILE).write_bytes(b"this is no database" * 100)
    with pytest.raises(HomeUnusable, match="move it away"):
        await open_store(tmp_path, inline)


async def test_a_home_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable, match="cannot be used"):
        await open_store(tmp_path / "file", inline)


async def test_a_newer_file_is_left_alone(store: Store, tmp_path: Path) -> None:
    await store.aclose()
    raw = sqlite3.connect(tmp_path / STORE_FILE)
    raw.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    raw.close()
    with pytest.raises(HomeUnusable, match="newer meshnode"):
        await open_store(tmp_path, inline)


async def test_the_version_is_written_once_migrated(store: Store, tmp_path: Path) -> None:
    raw = sqlite3.connect(tmp_path / STORE_FILE)
    assert raw.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()


async def test_use_after_close_is_an_error_of_ours(store: Store) -> None:
    await store.aclose()
    with pytest.raises(HomeUnusable):
        await store.next_seq(NOW)


async def test_kept_records_are_one_a_name_and_end(store: Store, tmp_path: Path) -> None:
    await store.keep("revocation", [Kept("a", b"1", NOW + 10), Kept("b", b"2", NOW + 20)], NOW)
    await store.keep("revocation", [Kept("a", b"3", NOW + 30)], NOW)
    await store.keep("vitals", [Kept("a", b"4", NOW + 30)], NOW)
    store = await reopen(store, tmp_path)
    assert await store.kept("revocation") == [b"3", b"2"]
    await store.keep("vitals", [], NOW + 25)
    assert (await store.kept("revocation"), await store.kept("vitals")) == ([b"3"], [b"4"])
    await store.forget_mesh()
    assert await store.kept("vitals") == []
    await store.aclose()


async def test_kept_records_are_bounded_and_those_go_that_end_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "KEPT_MAX", 2)
    await store.keep("revocation", [Kept(str(n), bytes([n]), NOW + n) for n in range(1, 6)], NOW)
    assert await store.kept("revocation") == [b"\x04", b"\x05"]


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 0)])
async def test_each_commit_waits_for_the_disk_unless_nothing_must_outlive_a_power_cut(
    tmp_path: Path, durable: bool, level: int
) -> None:
    store = await open_store(tmp_path, inline, durable=durable)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (level,)
    await store.raise_seq(NOW)
    again = await reopen(store, tmp_path)
    assert await again.next_seq(0) == NOW + 1
    assert again._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # unless told otherwise
    await again.aclose()
