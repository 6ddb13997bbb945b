"""A test that is skipped for want of a tool passes on a laptop and fails in CI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPED = {
    "a test": "import pytest\n\ndef test_it():\n    pytest.skip('no such tool')\n",
    "a module": "import pytest\n\npytest.skip('no such tool', allow_module_level=True)\n",
}


@pytest.mark.parametrize("what", SKIPPED)
@pytest.mark.parametrize(("ci", "fails"), [("", False), ("true", True)])
def test_a_skip_fails_in_ci_only(what: str, ci: str, fails: bool, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path / "conftest.py")
    (tmp_path / "test_it.py").write_text(SKIPPED[what])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", tmp_path, tmp_path],
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("CI must run everything" in done.stdout) is fails, done.stdout
    assert (done.returncode in (0, 5)) is not fails, done.stdout
