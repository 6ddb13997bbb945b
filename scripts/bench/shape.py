"""The shape that every benchmark shares: rows with a bound, a table, JSON, an exit code, and a place for rivals.

A script compares its alternatives in the same run. What it compares with lives in a virtual environment of its
own, made on first use from a pinned file beside the script, under .bench/ at the root of the checkout.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BENCH_HOME = ROOT / ".bench"


@dataclass(frozen=True)
class Row:
    """One comparison.

    `value` is ours and `against` the rival's, both in `unit`; `ratio` is value / against, or `paired`, the
    median of the rounds' own ratios, where rounds measure both within a moment: a machine that changes its
    pace between rounds then moves both. `bound` is the ratio promised, as "<= 1.6" or ">= 20", or empty for a
    row that only informs.
    """

    name: str
    value: float
    unit: str
    against: float
    rival: str
    bound: str = ""
    paired: float = 0.0

    @property
    def ratio(self) -> float:
        """Ours over the rival's."""
        return self.paired or self.value / self.against

    @property
    def holds(self) -> bool:
        """Whether the ratio keeps the bound."""
        if not self.bound:
            return True
        sign, limit = self.bound.split()
        return self.ratio <= float(limit) if sign == "<=" else self.ratio >= float(limit)

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return asdict(self) | {"ratio": round(self.ratio, 4), "holds": self.holds}


def bounded(name: str, value: float, unit: str, limit: float) -> Row:
    """A figure that must not exceed a limit; a limit of 0 is met by 0 alone."""
    return Row(name, value, unit, limit, "at most", "<= 1", paired=value / limit if limit else 1.0 + value)


def percentile(values: Sequence[float], of: int) -> float:
    """The nearest-rank percentile: at least `of` percent of the values are not above it."""
    ordered = sorted(values)
    return ordered[-(-of * len(ordered) // 100) - 1]


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(bench: str, rows: Sequence[Row], *, as_json: bool) -> int:
    """Print the rows; the exit code: 0 only if every row holds."""
    if as_json:
        print(json.dumps({"bench": bench, "machine": machine(), "rows": [row.as_dict() for row in rows]}))
    else:
        _print_table(rows)
    return 0 if all(row.holds for row in rows) else 1


def _print_table(rows: Sequence[Row]) -> None:
    titles = ("", "ours", "rival", "", "unit", "ratio", "bound", "")
    lines = [titles, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cells(row: Row) -> tuple[str, ...]:
    verdict = ("holds" if row.holds else "FAILS") if row.bound else ""
    values = (f"{row.value:,.0f}", f"{row.against:,.0f}")
    return (row.name, *values, row.rival, row.unit, f"{row.ratio:.2f}", row.bound, verdict)


def rival_python(name: str) -> Path:
    """The interpreter of the environment that holds a benchmark's rivals; made on first use.

    It is made from `<name>-requirements.txt` beside the scripts, and made again when that file changes.
    """
    requirements = HERE / f"{name}-requirements.txt"
    home = BENCH_HOME / name
    python, stamp = home / "bin" / "python", home / "installed.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"making {home.relative_to(ROOT)} from {requirements.name} (once)", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-r", requirements], check=True, stdout=sys.stderr
        )
        stamp.write_text(wanted, encoding="utf-8")
    return python
