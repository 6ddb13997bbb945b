"""The page about the audit log: its programs run, and find what ours find; its words are the code's."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from meshnode.cli import exits
from meshnode.observe.segments import SEGMENTS_PER_LOG
from meshnode.trust.audit import TAG, Kind, Line
from tests.observe.audit_play import SIGNER, written

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def names(code: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(compile(code, "docs/audit.md", "exec"), found)
    return found


async def test_a_checker_of_ones_own_finds_what_ours_finds(tmp_path: Path) -> None:
    home = await written(tmp_path, 4)
    (file,) = home.files
    raw, check = file.read_bytes(), names(PROGRAMS[0])["first_bad_line"]
    assert check(tmp_path, SIGNER.public) is None
    last = len(raw) - 1  # whether it ends with its newline is what the head decides
    for offset in range(0, last, 7):
        file.write_bytes(raw[:offset] + bytes([raw[offset] ^ 1]) + raw[offset + 1 :])
        bad = home.check().bad
        assert bad is not None
        assert check(tmp_path, SIGNER.public) == bad.line, offset


def test_the_decision_is_one() -> None:
    assert len(PROGRAMS) == 2
    assert names(PROGRAMS[1])["decision"].kind is Kind.SENT


def test_its_words_are_the_codes() -> None:
    assert TAG.decode() in PAGE
    assert f"with {exits.TABLE['audit_broken']} if not" in PAGE
    assert SEGMENTS_PER_LOG == 8
    assert "in eight files" in PAGE
    for field in msgspec.structs.fields(Line):
        assert f'"{field.encode_name}"' in PAGE
    for kind in Kind:
        assert f"`{kind}`" in PAGE
