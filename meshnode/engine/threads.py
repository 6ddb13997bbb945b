"""How many threads llama.cpp should compute with, given what else the machine is doing. Knows no worker.

Compute threads meet at a barrier after every operation and spin there, so one that the system does not
schedule stalls all. Measured on two cores, SmolLM2-135M, tokens per second of one sequence: alone, 2 threads
114 and 1 thread 80; beside a program that takes a fifth of a core, 103 and 69; beside one that takes a whole
core, 29 and 77. So the count follows what other programs leave free, rounded to the nearest core.
"""

import os
from pathlib import Path
from typing import NamedTuple

import psutil

HYSTERESIS = 0.15  # of a core, beyond the rounding, before the count changes
PERIOD_S = 0.25  # between two looks at the machine
FIRST_LOOK_S = 0.1  # before a model is loaded
SMOOTHING = 0.5  # the weight of the newest look: a core that is taken shows within two
LEAST_SHARE = 0.1  # of a core: one that computes less than this tells nothing by its waiting
HELD_BACK_MAX = 2.0
FAMILY_AGE_S = 5.0  # after which a worker's processes are looked up anew: a sandbox starts one in another
QUOTA_FILES = (
    ("sys/fs/cgroup/cpu.max", ""),
    ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


def cores(root: Path = Path("/")) -> int:
    """Physical cores that this process may use, by its affinity and its container's quota."""
    physical: int = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, int(min(physical, allowed, quota(root) or physical)))


def quota(root: Path = Path("/")) -> float:
    """Cores' worth of time that a container may use, 0 when nothing limits it: cgroup version 2 or 1."""
    for quota_file, period_file in QUOTA_FILES:
        words = _words(root / quota_file) + (_words(root / period_file) if period_file else [])
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            return int(words[0]) / int(words[1])
    return 0.0


def most(core_count: int) -> int:
    """The count on an idle machine: one core stays with the owner when there are more than two."""
    return core_count - 1 if core_count > 2 else core_count


def choose(core_count: int, others: float, current: int) -> int:
    """The count to use when other programs take `others` cores' worth of time; `current` if it is close."""
    free = core_count - others
    if abs(free - current) <= 0.5 + HYSTERESIS:
        return min(current, most(core_count))
    return max(1, min(most(core_count), round(free)))


class Governor:
    """Sets the count of one worker, look by look."""

    def __init__(self, own_process: int, count: int) -> None:
        self._others = Others(own_process)
        self._core_count = cores()
        self._smoothed = max(0.0, self._core_count - count) if count < most(self._core_count) else 0.0
        self.count = count
        self.own = 0.0

    def look(self, elapsed_s: float) -> int:
        """The count to use from now on; `elapsed_s` is the time since the last look.

        Afterwards `own` says how many cores' worth of time the worker itself took.
        """
        taken, self.own = self._others.look(elapsed_s)
        self._smoothed += SMOOTHING * (taken - self._smoothed)
        self.count = choose(self._core_count, self._smoothed, self.count)
        return self.count


class Others:
    """Measures, look by look, how much time a process with its children has taken, and how much all others want.

    Where there are more threads than cores nobody gets what he wants, and spinning threads get the more: so
    what the others took is scaled by how long this process itself had to wait for what it took (Linux tells).
    """

    def __init__(self, own_process: int) -> None:
        self._own_process = own_process
        self._family: list[psutil.Process] = []
        self._family_age_s = FAMILY_AGE_S
        self._own: dict[int, _Spent] = {}
        self._busy = _busy_s()
        self._own_since_last(FAMILY_AGE_S)

    def look(self, elapsed_s: float) -> tuple[float, float]:
        """Cores' worth since the last look, `elapsed_s` ago: of the others, and of the process itself."""
        own = self._own_since_last(elapsed_s)
        before, self._busy = self._busy, _busy_s()
        elapsed_s = max(elapsed_s, 1e-3)
        others_s = max(0.0, self._busy - before - own.computed_s)
        held_back = own.waited_s / own.computed_s if own.computed_s > LEAST_SHARE * elapsed_s else 0.0
        return others_s * (1 + min(held_back, HELD_BACK_MAX)) / elapsed_s, own.computed_s / elapsed_s

    def _own_since_last(self, elapsed_s: float) -> "_Spent":
        """What the family spent since the last look; a newcomer counts from its next look on."""
        self._family_age_s += elapsed_s
        if self._family_age_s >= FAMILY_AGE_S:
            self._family, self._family_age_s = _family(self._own_process), 0.0
        before, self._own = self._own, {}
        for process in self._family:
            try:
                self._own[process.pid] = _spent(process)
            except psutil.Error:
                self._family_age_s = FAMILY_AGE_S  # one has gone; look who is left
        pairs = [(now, before.get(pid, now)) for pid, now in self._own.items()]
        return _Spent(
            sum(now.computed_s - then.computed_s for now, then in pairs),
            max(0.0, sum(now.waited_s - then.waited_s for now, then in pairs)),  # threads come and go
        )


class _Spent(NamedTuple):
    """Seconds of a process's threads: those in which they ran, and those in which they were ready to."""

    computed_s: float
    waited_s: float


def _spent(process: psutil.Process) -> _Spent:
    times = process.cpu_times()
    waited_ns = 0
    for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
        words = _words(file)
        waited_ns += int(words[1]) if len(words) == 3 else 0
    return _Spent(times.user + times.system, waited_ns / 1e9)


def _family(process_id: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(process_id)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def _busy_s() -> float:
    """Seconds that all cores together have worked since the machine started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # `guest` is part of `user` already.
    everything = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return float(everything - idle)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
