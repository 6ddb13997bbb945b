"""The audit log: every byte is held, the end too; a crash costs only what was not acknowledged; files are bounded."""

import dataclasses
import errno
import json
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from meshnode.errors import HomeUnusable
from meshnode.observe import audit as audit_module
from meshnode.observe import segments as segments_module
from meshnode.observe.audit import BATCH_MAX, BEYOND_HEAD_MAX, HEAD_SYNCED_EVERY, AuditLog, read_head
from meshnode.observe.audit_check import Remembered, lines_about, lines_of
from meshnode.terms import Privacy
from meshnode.trust.audit import Kind, Point, line_of, read_line
from tests.observe.audit_play import SEAMS, SIGNER, Home, decision, written

LINES = 6


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def line_at(raw: bytes, offset: int) -> int:
    """The number of the line that this byte belongs to."""
    return raw.count(b"\n", 0, offset) + 1


async def test_a_line_says_where_a_request_went_and_nothing_of_its_content(tmp_path: Path) -> None:
    home = await written(tmp_path / "audit", 1)
    (file,) = home.files
    line = json.loads(file.read_bytes())
    assert {key: line[key] for key in line if key not in ("hash", "previous", "request", "weights")} == {
        "n": 1,
        "at": "2025-06-15T15:06:40.000+00:00",
        "decision": "sent",
        "class": "private",
        "rung": "trusted",
        "where": "abcdefghijklmnopqrstuvwxyz234567",
        "trust": "trusted",
        "reason": "private needs trusted",
        "model": "smollm2:135m",
        "path": ["aeaqcaibaeaqcaibaeaqcaibaeaqcaib"],
    }
    assert file.stat().st_mode & 0o777 == 0o600
    assert home.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("privacy", [Privacy.SENSITIVE, Privacy.LOCAL])
async def test_of_stricter_classes_the_decision_alone_is_kept(tmp_path: Path, privacy: Privacy) -> None:
    home = Home(tmp_path)
    await (await home.open()).note(decision(privacy=privacy))
    line = json.loads(home.files[0].read_bytes())
    assert line["class"] == privacy
    assert not {"model", "path"} & line.keys()


async def test_text_from_outside_breaks_no_line(tmp_path: Path) -> None:
    home = Home(tmp_path)
    audit = await home.open()
    await audit.note(decision(model='x"}\n{\x1b[2J', reason="\n" * 5000, where="\u2028" * 5000))
    (line,) = lines_of(home.segments, 9)
    assert line.model == 'x"}?{?[2J'
    assert len(line.reason) == 500
    assert home.check().intact


async def test_flipping_any_byte_is_detected_and_located(tmp_path: Path) -> None:
    home = await written(tmp_path, LINES)
    (file,) = home.files
    raw = file.read_bytes()
    assert home.check().intact
    rng = random.Random(4)
    for offset in range(len(raw)):
        for mask in (1, 0x20, rng.randrange(1, 256)):
            changed = bytearray(raw)
            changed[offset] ^= mask
            file.write_bytes(changed)
            bad = home.check().bad
            assert bad is not None, f"byte {offset} ^ {mask} was not noticed"
            assert (bad.line, bad.file) == (line_at(raw, offset), file.name), (offset, mask, bad)
            assert bad.offset == raw.rfind(b"\n", 0, offset) + 1


async def test_cutting_the_tail_at_any_length_is_detected_and_located(tmp_path: Path) -> None:
    home = await written(tmp_path, LINES)
    (file,) = home.files
    raw = file.read_bytes()
    for length in range(len(raw)):
        file.write_bytes(raw[:length])
        bad = home.check().bad
        assert bad is not None, f"cut to {length} was not noticed"
        assert bad.line == line_at(raw, length), (length, bad)
    file.unlink()
    assert home.check().bad is not None


async def test_the_head_and_the_tail_cut_together_are_found_by_what_others_remember(tmp_path: Path) -> None:
    home = await written(tmp_path, LINES)
    (file,) = home.files
    lines = file.read_bytes().splitlines(keepends=True)
    whole = (await home.open()).end
    older = home.heads[4]
    file.write_bytes(b"".join(lines[:4]))
    home.head = older  # the disk is as it was two lines ago
    assert home.check().intact
    bad = home.check(Remembered("node b", whole)).bad
    assert bad is not None
    assert (bad.line, "node b" in bad.why) == (5, True)
    assert home.check(Remembered("node b", Point(2, bytes(32)))).bad.line == 2  # type: ignore[union-attr]


async def test_a_log_without_its_head_or_with_anothers_is_no_proof(tmp_path: Path) -> None:
    home = await written(tmp_path / "a", 2)
    head, home.head = home.head, None
    assert not home.check().intact
    assert head is not None
    home.head = bytes([*head[:-1], head[-1] ^ 1])
    assert "signed" in home.check().bad.why  # type: ignore[union-attr]


async def test_a_line_taken_out_or_moved_is_found(tmp_path: Path) -> None:
    home = await written(tmp_path, LINES)
    (file,) = home.files
    lines = file.read_bytes().splitlines(keepends=True)
    for changed in (lines[:2] + lines[3:], [*lines[:2], lines[3], lines[2], *lines[4:]]):
        file.write_bytes(b"".join(changed))
        assert home.check().bad.line == 3  # type: ignore[union-attr]


async def test_a_line_put_in_the_place_of_another_is_found_by_the_next(tmp_path: Path) -> None:
    """It has the right number, follows the line before it, and has its own hash right."""
    home = await written(tmp_path, LINES)
    (file,) = home.files
    lines = file.read_bytes().splitlines(keepends=True)
    _, before = read_line(SIGNER.public, lines[1])
    lines[2], _ = line_of(
        SIGNER.public, before, decision(2, where="elsewhere"), "2025-06-15T15:06:40.000+00:00"
    )
    file.write_bytes(b"".join(lines))
    bad = home.check().bad
    assert bad is not None
    assert (bad.line, "the line before" in bad.why) == (4, True)


async def test_a_rewritten_chain_does_not_fit_the_head(tmp_path: Path) -> None:
    home = await written(tmp_path / "a", LINES)
    forged = Home(tmp_path / "b")
    audit = await forged.open()
    for number in range(LINES):
        await audit.note(decision(number, reason="nothing to see"))
    home.files[0].write_bytes(forged.files[0].read_bytes())
    assert home.check().bad.line == LINES  # type: ignore[union-attr]


# --- Crashes ---


async def test_an_unfinished_write_is_mended_and_said(tmp_path: Path) -> None:
    home = await written(tmp_path, 3)
    (file,) = home.files
    whole = file.read_bytes()
    torn = whole.splitlines(keepends=True)[1]
    for length in range(1, len(torn)):
        file.write_bytes(whole + torn[:length])
        report = home.check()
        assert (report.intact, report.unfinished_bytes) == (True, length)
    head = home.head
    await home.open()
    *_, told = lines_of(home.segments, 9)
    assert (told.n, told.decision) == (4, Kind.MENDED)
    assert f"{len(torn) - 1} bytes" in told.reason
    assert home.check().intact
    assert home.head != head


async def test_whole_lines_that_were_not_acknowledged_are_kept(tmp_path: Path) -> None:
    home = await written(tmp_path, 3)
    home.head = home.heads[2]
    report = home.check()
    assert (report.intact, report.unacknowledged) == (True, 1)
    await home.open()
    assert [line.decision for line in lines_of(home.segments, 9)] == ["sent", "sent", "sent", "mended"]
    assert (home.check().intact, home.check().unacknowledged) == (True, 0)


async def test_more_lines_than_a_crash_can_leave_are_not_believed(tmp_path: Path) -> None:
    home = await written(tmp_path, BEYOND_HEAD_MAX + 2)
    home.head = home.heads[1]
    bad = home.check().bad
    assert bad is not None
    assert bad.line == 2
    await home.open()
    assert lines_of(home.segments, 9)[0].decision == Kind.GAP


@pytest.mark.parametrize("harm", ["cut", "flip", "gone", "head"])
async def test_a_node_that_finds_its_log_damaged_says_so_for_ever_and_goes_on(
    tmp_path: Path, harm: str
) -> None:
    home = await written(tmp_path, LINES)
    (file,) = home.files
    raw = file.read_bytes()
    if harm == "cut":
        file.write_bytes(raw[:-300])
    elif harm == "flip":
        file.write_bytes(raw[:700] + b"!" + raw[701:])
    elif harm == "gone":
        file.unlink()
    else:
        home.head = None
    audit = await home.open()
    await audit.note(decision())
    report = home.check()
    first = 1 if harm == "head" else LINES + 1
    assert report.gaps == (first,)
    assert report.bad is not None
    assert report.bad.line == first
    if harm != "gone":
        (aside,) = home.folder.glob("damaged-*/*.jsonl")
        assert aside.name == file.name
    again = await home.open()
    assert again.end.n == first + 1
    assert home.check().gaps == (first,)


async def test_a_head_that_cannot_be_kept_takes_its_lines_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await written(tmp_path, 2)
    audit = await home.open()
    before = home.files[0].read_bytes()

    def fail(_head: bytes, *, sync: bool) -> None:
        raise HomeUnusable("full")

    monkeypatch.setattr(home, "save", fail)
    with pytest.raises(HomeUnusable):
        await audit.note(decision())
    assert home.files[0].read_bytes() == before
    monkeypatch.undo()
    await audit.note(decision())
    assert (home.check().intact, home.check().last) == (True, 3)


async def test_a_full_disk_refuses_and_leaves_the_log_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await written(tmp_path, 2)
    audit = await home.open()
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:-50])

    monkeypatch.setattr(segments_module.os, "write", half)
    with pytest.raises(HomeUnusable, match="No space left"):
        await audit.note(decision())
    monkeypatch.setattr(segments_module.os, "write", real)
    assert (home.check().intact, home.check().last, home.check().unfinished_bytes) == (True, 2, 0)
    await audit.note(decision())
    assert home.check().intact


# --- A line that is begun, and lasts later ---


class Disk:
    """The blocking seam, held until it is let go."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.free = trio.Event()

    async def __call__(self, work: Callable[[], Any], /) -> Any:
        self.reached.set()
        await self.free.wait()
        return work()


@asynccontextmanager
async def slow_log(home: Home) -> AsyncIterator[tuple[AuditLog, Disk]]:
    """A log of a line, whose disk takes its time from now on."""
    audit, disk = await home.open(), Disk()
    await audit.note(decision())
    audit._seams = dataclasses.replace(SEAMS, blocking=disk)  # type: ignore[arg-type]
    try:
        yield audit, disk
    finally:
        disk.free.set()


async def test_a_line_that_is_begun_is_in_its_file_and_lasts_once_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, synced = Home(tmp_path), []
    async with slow_log(home) as (audit, disk):
        monkeypatch.setattr(segments_module.os, "fsync", synced.append)
        begun = await audit.begin(decision(1))
        assert lines_of(home.segments, 9)[-1].request == decision(1).request
        assert (audit.end.n, synced) == (1, [])  # others are not told yet of what a loss of power could take
        with trio.move_on_after(0.01) as waited:
            await begun.lasts()
        assert waited.cancelled_caught
        disk.free.set()
        await begun.lasts()
    assert (audit.end.n, len(synced)) == (2, 1)
    assert (home.check().intact, home.check().last) == (True, 2)


async def test_one_that_is_begun_meanwhile_waits_and_shares_the_next_write(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with slow_log(home) as (audit, disk), trio.open_nursery() as nursery:
        saved = len(home.heads)
        for number in range(20):
            nursery.start_soon(audit.begin, decision(number))
        await disk.reached.wait()
        assert len(lines_of(home.segments, 99)) == 2
        disk.free.set()
    assert (home.check().intact, home.check().last) == (True, 21)
    assert len(home.heads) - saved == 2


async def test_what_cannot_be_written_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = await written(tmp_path, 2)
    audit = await home.open()
    before = home.files[0].read_bytes()

    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segments_module.os, "write", full)
    with pytest.raises(HomeUnusable, match="No space left"):
        await audit.begin(decision())
    monkeypatch.undo()
    assert home.files[0].read_bytes() == before
    await (await audit.begin(decision())).lasts()
    assert (home.check().intact, home.check().last) == (True, 3)


async def test_what_cannot_be_synced_stays_written_for_it_may_have_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = await written(tmp_path, 2)
    audit = await home.open()

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(segments_module.os, "fsync", broken)
    begun = await audit.begin(decision(7))
    with pytest.raises(HomeUnusable, match="Input/output error"):
        await begun.lasts()
    assert audit.end.n == 2
    monkeypatch.undo()
    await audit.note(decision(8))
    assert (home.check().intact, home.check().last, audit.end.n) == (True, 4, 4)


async def test_lines_that_are_begun_rotate_within_the_bound(tmp_path: Path) -> None:
    home = Home(tmp_path, bytes_max=1)
    audit = await home.open()
    for number in range(400):
        await (await audit.begin(decision(number))).lasts()
    assert (home.check().intact, home.check().last) == (True, 400)
    assert len(home.files) > 2
    assert all(file.stat().st_size <= home.segments.segment_bytes for file in home.files)


# --- Many at once, and for long ---


async def test_those_who_come_together_share_writes_and_all_are_there(tmp_path: Path) -> None:
    home = Home(tmp_path)
    audit = await home.open()
    saved = len(home.heads)
    async with trio.open_nursery() as nursery:
        for number in range(3 * BATCH_MAX):
            nursery.start_soon(audit.note, decision(number))
    assert home.check().last == 3 * BATCH_MAX
    assert len(home.heads) - saved <= 5


async def test_who_leaves_while_it_waits_leaves_the_others_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    audit = await home.open()
    async with trio.open_nursery() as nursery:
        for number in range(20):
            scope = trio.CancelScope()

            async def note(number: int = number, scope: trio.CancelScope = scope) -> None:
                with scope:
                    await audit.note(decision(number))

            nursery.start_soon(note)
            if number % 3 == 0:
                nursery.start_soon(lambda scope=scope: _cancel(scope))
    await audit.note(decision(99))
    assert home.check().intact
    kept = {line.request for line in lines_of(home.segments, 99)}
    assert kept >= {decision(number).request for number in range(20) if number % 3} | {decision(99).request}


async def _cancel(scope: trio.CancelScope) -> None:
    await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_files_rotate_within_the_bound_and_the_chain_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES_MIN", 1500)
    home = Home(tmp_path, bytes_max=8 * 1500)
    audit = await home.open()
    for number in range(60):
        await audit.note(decision(number))
        report = home.check()
        assert report.intact, report
        assert sum(file.stat().st_size for file in home.files) <= home.bytes_max
    assert report.last == 60
    assert report.first > 1
    again = await home.open()
    assert again.end.n == 60
    oldest = home.files[0]
    kept = oldest.read_bytes()
    oldest.unlink()  # more is missing than was rotated away
    assert not home.check().intact
    oldest.write_bytes(kept)
    for file in home.files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] + b"?" + whole[len(whole) // 2 + 1 :])
        assert home.check().bad.file == file.name  # type: ignore[union-attr]
        file.write_bytes(whole)
    assert home.check().intact


async def test_a_crash_while_files_rotate_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "SEGMENT_BYTES_MIN", 1500)
    home = Home(tmp_path, bytes_max=8 * 1500)
    audit = await home.open()
    monkeypatch.setattr(audit._segments, "remove", lambda _superfluous: None)  # it never comes to that
    for number in range(40):
        await audit.note(decision(number))
    assert len(home.files) > 8
    assert home.check().intact
    again = await home.open()
    await again.note(decision())
    assert home.check().intact
    assert len(home.files) <= 8


async def test_reading_it(tmp_path: Path) -> None:
    home = await written(tmp_path, LINES)
    assert [line.n for line in lines_of(home.segments, 2)] == [5, 6]
    assert [line.n for line in lines_about(home.segments, "3")] == [3]
    assert [line.n for line in lines_about(home.segments, decision(4).request)] == [5]
    home.files[0].write_bytes(home.files[0].read_bytes() + b"half a li")
    assert lines_of(home.segments, 1)[0].decision == "unreadable"


async def test_it_waits_for_no_more_than_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "WAITING_MAX", 0)
    home = Home(tmp_path)
    audit = await home.open()
    from meshnode.errors import Busy

    with pytest.raises(Busy):
        await audit.note(decision())


def test_the_head_is_bound_to_the_key(tmp_path: Path) -> None:
    from meshnode.trust.audit import head_holds, sign_head
    from meshwire.signing import Signer

    head = sign_head(SIGNER, Point(), Point(3, b"h" * 32))
    assert head_holds(SIGNER.public, head)
    assert not head_holds(Signer(b"\x09" * 32).public, head)


async def test_a_loss_of_power_sets_the_head_back_and_loses_no_line(tmp_path: Path) -> None:
    home = await written(tmp_path, 3 * HEAD_SYNCED_EVERY - 1)
    home.head = home.synced[-1]
    found = home.check()
    assert (found.intact, found.last) == (True, 3 * HEAD_SYNCED_EVERY - 1)
    assert 0 < found.unacknowledged <= BEYOND_HEAD_MAX
    await home.open()
    assert (home.check().last, home.check().unacknowledged) == (3 * HEAD_SYNCED_EVERY, 0)


async def test_the_head_is_synced_before_the_files_go_that_it_leaves_out(tmp_path: Path) -> None:
    home = await written(tmp_path, 1200, bytes_max=1)
    base = read_head(home.head).base  # type: ignore[union-attr]
    assert base.n > 0
    assert read_head(home.synced[-1]).base == base  # type: ignore[union-attr]


async def test_a_file_that_is_deleted_under_the_log_is_not_written_into_nothing(tmp_path: Path) -> None:
    home = await written(tmp_path, 2)
    audit = await home.open()
    await audit.note(decision())
    home.files[0].unlink()
    await audit.note(decision())
    assert home.files[0].name == f"audit-{4:016}.jsonl"
    bad = home.check().bad
    assert bad is not None
