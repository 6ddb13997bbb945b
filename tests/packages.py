"""Packages of other people's making that only tests use, each set in a folder of its own below .bench/.

They are not in the environment that the tests run in: some pin other versions of what is there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def fetched(requirements: Path) -> Path:
    """Where the packages of a pinned file are; fetched on first use, and again when the file changes."""
    folder = ROOT / ".bench" / requirements.stem
    stamp = folder / "installed.txt"
    wanted = f"{sys.version}\n{requirements.read_text(encoding='utf-8')}"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"fetching {requirements.name} into {folder.relative_to(ROOT)} (once)", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:"]
        subprocess.run([*pip, "--target", folder, "-r", requirements], check=True, stdout=sys.stderr)
        stamp.write_text(wanted, encoding="utf-8")
    return folder


def fetched_for_node(folder: Path) -> Path:
    """Where the npm packages of a folder's package-lock.json are, as modules for NODE_PATH; fetched likewise."""
    home = ROOT / ".bench" / folder.name
    stamp = home / "installed.json"
    wanted = (folder / "package-lock.json").read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"fetching {folder.name} into {home.relative_to(ROOT)} (once)", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(folder / name, home)
        npm = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(npm, cwd=home, check=True, stdout=sys.stderr)
        stamp.write_text(wanted, encoding="utf-8")
    return home / "node_modules"


def with_packages(folder: Path, **more: str) -> dict[str, str]:
    """The environment of a Python that finds them first."""
    return {**os.environ, "PYTHONPATH": str(folder), **more}
