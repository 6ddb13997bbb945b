"""Builds the documentation's site: lays the pages out as in the checkout, and has mkdocs build them strictly."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.packages import fetched, with_packages  # noqa: E402

PAGES = ROOT / ".bench" / "site-pages"
CONFIG = ROOT / "docs" / "mkdocs.yml"
TOOLS = ROOT / "scripts" / "docs-tools.txt"
LEFT_OUT = ("mkdocs.yml",)
FENCE = re.compile(r"^```(\w+) ([\w-]+)[^`\n]*$", re.MULTILINE)
QUIET = {"NO_MKDOCS_2_WARNING": "1"}  # a notice of its own about versions to come
UNNAMED = "no-run"  # says something about the block, and names no device


def lay_out() -> None:
    """Copy every page, so that links between folders of the checkout are links of the site."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for page in [*ROOT.glob("*.md"), ROOT / "LICENSE"]:
        shutil.copy(page, PAGES / page.name)
    for folder in ("docs", "specs"):
        shutil.copytree(ROOT / folder, PAGES / folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for page in PAGES.rglob("*.md"):
        page.write_text(FENCE.sub(titled, page.read_text(encoding="utf-8")), encoding="utf-8")


def titled(fence: re.Match[str]) -> str:
    """The fence of a block with the device that it is typed on as its title, as mkdocs wants it."""
    kind, device = fence.groups()
    return f"```{kind}" if device == UNNAMED else f'```{kind} title="{device}"'


def build(site: Path) -> int:
    """Make the site of the pages that are laid out; 0 if it is there and nothing was warned of."""
    packages = fetched(TOOLS)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(CONFIG), "-d", str(site)]
    return subprocess.run(command, env=with_packages(packages, **QUIET), cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    lay_out()
    sys.exit(build(Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT / "build" / "site"))
