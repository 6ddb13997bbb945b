"""An audit log whose process is killed, again and again: nothing that was acknowledged is ever missing."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshnode.observe.audit import BATCH_MAX, read_head
from meshnode.observe.audit_check import check, lines_of
from meshnode.observe.head import HeadFile
from meshnode.observe.segments import FOLDER, Segments
from meshnode.trust.audit import Head, Kind
from tests.observe.audit_play import SIGNER

ROOT = Path(__file__).parents[2]
LIVES = 6


def live(home: Path, torn_at: int = 0, kill_after_s: float = 0.0) -> tuple[int, int]:
    """One life, ended by SIGKILL: the last line when it began, and the last that it said to be there."""
    command = [sys.executable, "-m", "tests.observe.audit_child", str(home), str(torn_at)]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protocol'}"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        begun = int(child.stdout.readline().split()[1])
        if kill_after_s:
            time.sleep(kill_after_s)
            child.kill()
        said = child.stdout.read().splitlines()
    assert child.returncode == -9
    whole = [int(line) for line in said if line.isdigit()]
    return begun, whole[-1] if whole else begun


def head_of(home: Path) -> Head | None:
    return read_head(HeadFile(home).load())


@pytest.mark.parametrize("torn_at", [1, 2, 7])
def test_killed_in_the_middle_of_a_write_only_that_line_is_lost(tmp_path: Path, torn_at: int) -> None:
    begun, acknowledged = live(tmp_path, torn_at)
    assert (begun, acknowledged) == (0, torn_at - 1)
    segments = Segments(tmp_path / FOLDER, 1 << 20)
    torn = check(segments, SIGNER.public, head_of(tmp_path))
    assert (torn.intact, torn.last) == (True, acknowledged)
    assert torn.unfinished_bytes > 0
    begun, _ = live(tmp_path, 1)
    lines = lines_of(segments, 99)
    assert begun == acknowledged + 1
    assert lines[acknowledged].decision == Kind.MENDED
    assert f"{torn.unfinished_bytes} bytes" in lines[acknowledged].reason


def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    rng = random.Random(8)
    segments, least = Segments(tmp_path / FOLDER, 1 << 20), 0
    for _ in range(LIVES):
        begun, acknowledged = live(tmp_path, kill_after_s=rng.uniform(0.05, 0.25))
        assert begun >= least
        report = check(segments, SIGNER.public, head_of(tmp_path))
        assert report.intact, report
        assert acknowledged <= report.last <= acknowledged + BATCH_MAX
        least = acknowledged
    assert least > 20
