"""What is half done has one owner at a time, is found again, and does not stay for ever."""

import os

import pytest
import trio
import trio.testing

from meshnode.errors import DownloadFailed, HomeUnusable
from meshnode.models import place as place_module
from meshnode.models.place import KEPT_S, State, place_for, writing


def nobody():
    pytest.fail("nobody else has the place")


async def test_what_was_left_is_found_again(tmp_path):
    async with place_for(tmp_path, "a", nobody) as place:
        place.part.write_bytes(b"half")
        place.remember(State('"tag"', 8))
    async with place_for(tmp_path, "a", nobody) as place:
        assert (place.held(), place.recall()) == (4, State('"tag"', 8))
        place.clear()
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_damaged_state_is_no_state(tmp_path):
    async with place_for(tmp_path, "a", nobody) as place:
        place.remember(State("x", 1))
        (place.directory / "state.json").write_text('{"validator":')
        assert place.recall() is None


async def test_the_second_waits_for_the_first_and_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(place_module, "LOCK_POLL_S", 0.01)
    order, enough = [], trio.Event()

    async def use(name):
        async with place_for(tmp_path, "a", lambda: order.append(f"{name} waits")):
            order.append(f"{name} in")
            await enough.wait()
            order.append(f"{name} out")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, "one")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(use, "two")
        while len(order) < 2:
            await trio.sleep(0.01)
        await trio.sleep(0.05)
        enough.set()
    assert order == ["one in", "two waits", "one out", "two in", "two out"]


async def test_other_files_do_not_wait(tmp_path):
    async with place_for(tmp_path, "a", nobody), place_for(tmp_path, "b", nobody):
        pass


async def test_what_nobody_went_on_with_is_removed_in_the_end(tmp_path):
    for name in ("old", "new", "held"):
        async with place_for(tmp_path, name, nobody) as place:
            place.part.write_bytes(b"half")
            age = 0 if name == "new" else KEPT_S + 60
            now = place.part.stat().st_mtime
            for path in (place.part, place.directory):
                os.utime(path, (now - age, now - age))
    async with place_for(tmp_path, "held", nobody) as held, place_for(tmp_path, "other", nobody):
        assert held.held() == 4
        left = sorted(path.name for path in (tmp_path / "incoming").iterdir() if path.is_dir())
    assert left == ["held", "new", "other"]


def test_a_full_disk_and_a_forbidden_one_are_told_apart(tmp_path):
    with pytest.raises(DownloadFailed, match="full"), writing(tmp_path):
        raise OSError(place_module.FULL[0], "No space left on device")
    with pytest.raises(HomeUnusable, match="written"), writing(tmp_path):
        raise PermissionError(13, "Permission denied")
