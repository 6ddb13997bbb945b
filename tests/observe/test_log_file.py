"""Reading a log file: both its halves, what was cut off, what cannot be read; and the ring that is read meanwhile."""

import json
from pathlib import Path

import pytest

from meshnode.errors import HomeUnusable
from meshnode.observe.log import FILE_NAME, RollingFile
from meshnode.observe.log_file import LINE_BYTES_MAX, logged
from meshnode.observe.tail import Tail


def line(n: int) -> str:
    return json.dumps({"event": n}) + "\n"


def events(home: Path) -> list[object]:
    return [fields["event"] for fields in logged(home)]


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    assert events(tmp_path) == []


def test_the_predecessor_comes_first(tmp_path: Path) -> None:
    file = RollingFile(tmp_path / FILE_NAME, bytes_max=40)
    for n in range(4):
        file.write(line(n))
    file.close()
    assert (tmp_path / f"{FILE_NAME}.1").exists()
    assert events(tmp_path) == [0, 1, 2, 3]


def test_a_file_that_rolls_over_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / f"{FILE_NAME}.1").write_text(line(0))
    (tmp_path / FILE_NAME).write_text(line(1))
    reading = logged(tmp_path)
    assert next(reading)["event"] == 0
    (tmp_path / FILE_NAME).replace(tmp_path / f"{FILE_NAME}.1")
    (tmp_path / FILE_NAME).write_text(line(2))
    assert [fields["event"] for fields in reading] == [1]


@pytest.mark.parametrize(
    "damage", [b'{"event": 1', b"\xff\xfe\n", b"[1]\n", b"x" * (2 * LINE_BYTES_MAX) + b"\n"]
)
def test_what_is_no_line_is_left_out(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(line(0).encode() + damage)
    assert events(tmp_path) == [0]


def test_no_more_of_a_line_is_held_than_a_line_can_have(tmp_path: Path) -> None:
    whole = {"event": 1, "filler": "x" * LINE_BYTES_MAX}
    (tmp_path / FILE_NAME).write_text(json.dumps(whole) + "\n" + line(2))
    assert events(tmp_path) == [2]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(HomeUnusable, match="cannot be read"):
        events(tmp_path)


def test_a_line_that_comes_while_the_ring_is_read_does_no_harm() -> None:
    tail = Tail()
    for n in range(3):
        tail.keep({"event": n})

    class Nosy(int):
        """A number that has something logged whenever it is compared."""

        def __lt__(self, other: object) -> bool:
            tail.keep({"event": "meanwhile"})
            return True

    assert len(tail.after(Nosy(0))) == 3
    assert tail.last == 6
