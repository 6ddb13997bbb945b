"""How much of the processor programs other than this node take. It knows no engines, only processes.

A worker may be started at any moment, and what it computes must not look like the owner's doing: the family of
processes is looked up anew every few seconds, and whenever others seem to be at work.
"""

import os
from collections import deque

import psutil

FAMILY_AGE_S = 5.0
SUSPICION = 0.1  # of the machine: from here on it is worth finding out whose it is
LOOKS = 2  # that a figure is the mean of: one that is busy for a moment does not count


class Others:
    """Measures, look by look, what share of all cores others take."""

    def __init__(self, process_id: int | None = None) -> None:
        self._process_id = process_id or os.getpid()
        self._cores = psutil.cpu_count() or 1
        self._family: dict[int, psutil.Process] = {}
        self._family_age_s = FAMILY_AGE_S
        self._own = self._own_s(0.0)
        self._busy = _busy_s()
        self._shares: deque[float] = deque(maxlen=LOOKS)

    def look(self, elapsed_s: float) -> float | None:
        """The share in the last two looks, 0 to 1; `elapsed_s` is the time since the last. None at first."""
        elapsed_s = max(elapsed_s, 1e-3)
        before, self._busy = self._busy, _busy_s()
        own = self._own_since_last(elapsed_s)
        share = self._share(self._busy - before - own, elapsed_s)
        if share > SUSPICION and (found := self._find_newcomers(elapsed_s)):
            share = self._share(self._busy - before - own - found, elapsed_s)
        self._shares.append(share)
        return sum(self._shares) / LOOKS if len(self._shares) == LOOKS else None

    def _share(self, busy_s: float, elapsed_s: float) -> float:
        return min(1.0, max(0.0, busy_s) / elapsed_s / self._cores)

    def _own_since_last(self, elapsed_s: float) -> float:
        before, self._own = self._own, self._own_s(elapsed_s)
        return sum(max(0.0, spent - before.get(pid, spent)) for pid, spent in self._own.items())

    def _find_newcomers(self, elapsed_s: float) -> float:
        """What processes of this node that were not known yet have taken; of each at most all there was to take."""
        known, self._family_age_s = dict(self._own), FAMILY_AGE_S
        self._own = self._own_s(0.0)
        most_s = elapsed_s * self._cores
        return sum(min(spent, most_s) for pid, spent in self._own.items() if pid not in known)

    def _own_s(self, elapsed_s: float) -> dict[int, float]:
        """Seconds that each process of this node has computed so far."""
        self._family_age_s += elapsed_s
        if self._family_age_s >= FAMILY_AGE_S:
            self._family, self._family_age_s = _family(self._process_id), 0.0
        spent: dict[int, float] = {}
        for pid, process in self._family.items():
            try:
                times = process.cpu_times()
                spent[pid] = times.user + times.system
            except psutil.Error:
                self._family_age_s = FAMILY_AGE_S  # it has gone; look who is left
        return spent


def _family(process_id: int) -> dict[int, psutil.Process]:
    try:
        parent = psutil.Process(process_id)
        return {process.pid: process for process in (parent, *parent.children(recursive=True))}
    except psutil.Error:
        return {}


def _busy_s() -> float:
    """Seconds that all cores together have worked; what waits for a disk or runs niced to the bottom is not idle."""
    times = psutil.cpu_times()
    counted = ("user", "nice", "system", "irq", "softirq", "steal")
    return float(sum(getattr(times, name, 0.0) for name in counted))
