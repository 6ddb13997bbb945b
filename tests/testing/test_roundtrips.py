"""Tables of measured round trips: holes are filled, nonsense is refused."""

from pathlib import Path

import pytest

from meshnode.testing.roundtrips import LONGEST_S, read_matrix


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rtt.txt"
    path.write_text(text)
    return path


def test_holes_take_the_rows_median_and_the_longest_are_capped(tmp_path: Path) -> None:
    matrix = read_matrix(table(tmp_path, "0\t0.1\t0.3\t0.2\n0\t0\t5\t0.4\n\n0\t0.1\t0\t0.3\n0 0 0 0\n"))
    assert matrix == (
        (0.0, 0.1, 0.3, 0.2),
        (LONGEST_S, 0.0, LONGEST_S, 0.4),
        (0.2, 0.1, 0.0, 0.3),
        (0.0, 0.0, 0.0, 0.0),
    )


@pytest.mark.parametrize("text", ["", "0 1\n", "0 1 2\n1 0\n2 1 0\n", "0 -1\n1 0\n", "0 x\n1 0\n"])
def test_what_is_no_square_table_of_times_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        read_matrix(table(tmp_path, text))
