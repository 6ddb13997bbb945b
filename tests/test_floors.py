"""The floors hold, and the contracts that say so can fail: an import planted where it must not be is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
PLANTED = {
    "the wire does IO": ("protocol/meshwire/records.py", "import trio"),
    "a mind reaches for a limb": ("meshnode/mesh/paths.py", "from meshnode.net import link"),
    "a mind does IO": ("meshnode/routing/plan.py", "import trio"),
    "a limb knows another": ("meshnode/net/gossip.py", "from meshnode.engine import base"),
    "the node leans on the simulator": ("meshnode/node/run.py", "from meshnode.testing import clock"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what ships, to plant things in."""
    root = tmp_path_factory.mktemp("house")
    for name in ("meshnode", "protocol"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts over a tree."""
    env = {**os.environ, "PYTHONPATH": f".{os.pathsep}protocol"}
    return subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=root, env=env, capture_output=True, text=True, check=False
    )


def test_the_floors_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_import_is_found(copy: Path, what: str) -> None:
    name, line = PLANTED[what]
    path = copy / name
    before = path.read_text(encoding="utf-8")
    path.write_text(before + f"\n{line}\n", encoding="utf-8")
    try:
        done = lint(copy)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode == 1
    assert "BROKEN" in done.stdout
