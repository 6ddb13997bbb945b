"""The file of the audit log's head: one whole head is always in it, and the newest whole one is what it says."""

from pathlib import Path

import pytest

from meshnode.errors import HomeUnusable
from meshnode.observe.head import FILE, PLACE_BYTES, HeadFile


def saved(home: Path, *heads: bytes) -> HeadFile:
    file = HeadFile(home)
    for head in heads:
        file.save(head, sync=False)
    return file


def test_the_last_head_is_the_one_that_is_read(tmp_path: Path) -> None:
    assert HeadFile(tmp_path).load() is None
    for count in range(1, 6):
        heads = [bytes([number]) * (300 - number) for number in range(count)]
        (tmp_path / FILE).unlink(missing_ok=True)
        assert saved(tmp_path, *heads).load() == HeadFile(tmp_path).load() == heads[-1]


def test_another_life_goes_on_where_the_last_ended(tmp_path: Path) -> None:
    saved(tmp_path, b"one", b"two", b"three")
    saved(tmp_path, b"four")
    assert HeadFile(tmp_path).load() == b"four"


@pytest.mark.parametrize("at", [0, 9, 17, 20])
def test_a_head_that_is_torn_leaves_the_one_before(tmp_path: Path, at: int) -> None:
    saved(tmp_path, b"first head", b"second head")
    raw = bytearray((tmp_path / FILE).read_bytes())
    raw[at] ^= 1  # the second is in the first place
    (tmp_path / FILE).write_bytes(raw)
    assert HeadFile(tmp_path).load() == b"first head"
    raw[PLACE_BYTES + at] ^= 1
    (tmp_path / FILE).write_bytes(raw)
    assert HeadFile(tmp_path).load() == b""


def test_a_deleted_file_is_written_anew(tmp_path: Path) -> None:
    file = saved(tmp_path, b"one")
    (tmp_path / FILE).unlink()
    file.save(b"two", sync=True)
    assert HeadFile(tmp_path).load() == b"two"


def test_a_home_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(HomeUnusable, match="audit log"):
        HeadFile(tmp_path / "none").save(b"head", sync=False)
