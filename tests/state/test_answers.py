"""Kept answers in their file: by key and by namespace, for a time, within a size."""

import sqlite3
import stat
from pathlib import Path

import pytest

from meshnode.errors import HomeUnusable
from meshnode.seams import inline
from meshnode.state.answers import ANSWERS_FILE, TOUCH_EVERY_MS, AnswerRow, AnswerStore


def row(number: int, *, namespace: bytes = b"n", size: int = 10, question: str = "why") -> AnswerRow:
    return AnswerRow(bytes([number]), b"w", namespace, question, b"x" * size)


def store_in(home: Path, bytes_max: int = 1 << 20, kept_ms: int = 10**6) -> AnswerStore:
    return AnswerStore(home, inline, bytes_max=bytes_max, kept_ms=kept_ms)


async def test_an_answer_is_found_by_its_key_after_the_node_was_closed(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.put(row(1), 5)
    await store.aclose()
    assert await store.of_ask(b"\x01", 6) == [row(1)._replace(made_ms=5)]
    assert await store.of_ask(b"\x02", 6) == []
    await store.aclose()


async def test_the_file_is_private_in_wal_mode_and_made_on_first_use(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert not (tmp_path / ANSWERS_FILE).exists()
    await store.put(row(1), 5)
    assert stat.S_IMODE((tmp_path / ANSWERS_FILE).stat().st_mode) == 0o600
    assert sqlite3.connect(tmp_path / ANSWERS_FILE).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.aclose()


async def test_an_answer_is_given_for_a_time_alone(tmp_path: Path) -> None:
    store = store_in(tmp_path, kept_ms=100)
    await store.put(row(1), 5)
    assert await store.of_ask(b"\x01", 104)
    assert not await store.of_ask(b"\x01", 105)
    assert not await store.near(b"n", 105, 9)
    await store.put(row(2), 105)
    await store.aclose()
    assert sqlite3.connect(tmp_path / ANSWERS_FILE).execute("SELECT count(*) FROM answers").fetchone() == (1,)


async def test_the_least_used_go_first_when_the_space_is_full(tmp_path: Path) -> None:
    store = store_in(tmp_path, bytes_max=3 * row(1, size=1000).size)
    for number in (1, 2, 3):
        await store.put(row(number, size=1000), number)
    later = TOUCH_EVERY_MS + 10
    assert await store.of_ask(b"\x01", later)
    await store.put(row(4, size=1000), later)
    there = [number for number in (1, 2, 3, 4) if await store.of_ask(bytes([number]), later)]
    assert there == [1, 3, 4]
    await store.put(row(5, size=10_000), later)
    assert not await store.of_ask(b"\x05", later)
    await store.aclose()


async def test_only_a_namespaces_questions_are_near_and_the_newest_come_first(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.put(row(1), 1)
    await store.put(row(2), 2)
    await store.put(row(3, question=""), 3)
    await store.put(row(4, namespace=b"other"), 4)
    assert [one.ask for one in await store.near(b"n", 9, 9)] == [b"\x02", b"\x01"]
    assert len(await store.near(b"n", 9, 1)) == 1
    await store.aclose()


async def test_what_was_learnt_of_an_answer_stays_with_it_until_there_is_a_new_one(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    await store.put(row(1), 1)
    await store.put_labels(b"\x01", b"w", b"learnt")
    assert (await store.of_ask(b"\x01", 2))[0].labels == b"learnt"
    await store.put(row(1), 3)
    assert (await store.of_ask(b"\x01", 4))[0].labels == b""
    await store.aclose()


async def test_a_file_that_is_none_is_told_of(tmp_path: Path) -> None:
    (tmp_path / ANSWERS_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(HomeUnusable, match=ANSWERS_FILE):
        await store_in(tmp_path).of_ask(b"\x01", 1)
