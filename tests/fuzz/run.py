"""Feeds a target with inputs that follow its coverage: `python tests/fuzz/run.py TARGET [--inputs N] [--seed N]`.

Atheris (libFuzzer) draws the inputs; targets, and what counts as a defect in them, are in `targets`. Beside what
they assert no input may take longer than SLOW_S, and memory may not grow by more than GROWTH_BYTES. What fails is
kept in tests/fuzz/cases/TARGET, from where the suite tries it ever after.
"""

import argparse
import gc
import hashlib
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol")]

import atheris  # noqa: E402 - the paths come first
import psutil  # noqa: E402

with atheris.instrument_imports(
    include=["meshwire", "meshnode.mesh", "meshnode.trust", "meshnode.net.relay"]
):
    from tests.fuzz.targets import TARGETS

CASES = HERE / "cases"
SLOW_S = 0.25  # of the processor's time; a whole message has 64 KiB
GROWTH_BYTES = 50 << 20
WARM_UP = 0.1  # of the inputs, before memory is looked at
LONGEST = 70_000  # bytes of an input; a transport message has 65,535


class Run:
    """One target's run: counts, watches, and ends the process, which libFuzzer does not give back."""

    def __init__(self, name: str, inputs: int) -> None:
        self.name = name
        self.target = TARGETS[name]
        self.inputs = inputs
        self.count = 0
        self.slowest_s = 0.0
        self.before_bytes = 0
        self.began = time.monotonic()

    def take(self, data: bytes) -> None:
        """One input."""
        start = time.thread_time()
        try:
            self.target.take(data)
        except Exception:
            traceback.print_exc()
            self._end(f"a defect, kept as {kept(self.name, data)}")
        took = time.thread_time() - start
        self.slowest_s = max(self.slowest_s, took)
        if took > SLOW_S:
            self._end(f"an input took {took:.2f} s, kept as {kept(self.name, data)}")
        self.count += 1
        if self.count == int(self.inputs * WARM_UP):
            self.before_bytes = memory_bytes()
        if self.count >= self.inputs:
            grown = memory_bytes() - self.before_bytes
            self._end("" if grown <= GROWTH_BYTES else f"memory grew by {grown >> 20} MiB")

    def _end(self, fault: str) -> None:
        facts = {
            "target": self.name,
            "inputs": self.count,
            "seconds": round(time.monotonic() - self.began, 1),
            "slowest_ms": round(self.slowest_s * 1000, 1),
            "memory_grew_mib": round((memory_bytes() - self.before_bytes) / (1 << 20), 1),
            "fault": fault,
        }
        print(json.dumps(facts), flush=True)
        os._exit(1 if fault else 0)


def memory_bytes() -> int:
    """What the process holds, without what is only waiting to be collected."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def kept(name: str, data: bytes) -> Path:
    """The file that a failing input is kept in."""
    path = CASES / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.relative_to(ROOT)


def main() -> None:
    """Parse, write the first inputs, and let libFuzzer go on from there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    run = Run(given.target, given.inputs)
    with tempfile.TemporaryDirectory(prefix="meshnode-fuzz-") as corpus:
        for number, first in enumerate(run.target.seeds()):
            Path(corpus, f"{number:03}").write_bytes(first)
        # libFuzzer's own watch over memory counts what the process that started this one ever held.
        options = [f"-seed={given.seed}", f"-max_len={LONGEST}", "-verbosity=0", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], *options, corpus], run.take)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
