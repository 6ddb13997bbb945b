"""The table of threats names code that there is, and tests that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    row.strip("|").split("|")
    for row in (ROOT / "specs" / "threats.md").read_text(encoding="utf-8").splitlines()
    if row.startswith("| ") and not row.startswith("| attack")
]
TEST = re.compile(r"`([a-z_/]+\.py)`((?:,? ?[a-z0-9_]{8,})*)")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip().replace(" ", "-"))
def test_a_row_names_code_and_tests(row: list[str]) -> None:
    _, _, code, tests = row
    for path in re.findall(r"`([^`]+\.py)`", code):
        assert (ROOT / "meshnode" / path).is_file() or (ROOT / "protocol" / path).is_file(), path
    named = TEST.findall(tests)
    assert named
    for path, names in named:
        source = (ROOT / "tests" / path).read_text(encoding="utf-8")
        for name in re.findall(r"[a-z0-9_]+", names):
            assert f"def test_{name}(" in source, name
