"""How many threads llama.cpp should compute with, given what else the machine is doing. Knows no worker.

Compute threads meet at a barrier after every operation and spin there, so one that the system does not
schedule stalls all. Measured on two cores, SmolLM2-135M, tokens per second of one sequence: alone, 2 threads
114 and 1 thread 80; beside a program that takes a fifth of a core, 103 and 69; beside one that takes a whole
core, 29 and 77. So the count follows what other programs leave free, rounded to the nearest core.
"""

import os

import psutil

HYSTERESIS = 0.15  # of a core, beyond the rounding, before the count changes
PERIOD_S = 1.0  # between two looks at the machine


def cores() -> int:
    """Physical cores that this process may run on."""
    physical: int = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed))


def most(core_count: int) -> int:
    """The count on an idle machine: one core stays with the owner when there are more than two."""
    return core_count - 1 if core_count > 2 else core_count


def choose(core_count: int, others: float, current: int) -> int:
    """The count to use when other programs take `others` cores' worth of time; `current` if it is close."""
    free = core_count - others
    if abs(free - current) <= 0.5 + HYSTERESIS:
        return min(current, most(core_count))
    return max(1, min(most(core_count), round(free)))


class Others:
    """Measures, look by look, how many cores' worth of time all programs but one have taken."""

    def __init__(self, own_process: int) -> None:
        self._own_process = own_process
        self._last = (0.0, 0.0)
        self._last = self._read()

    def look(self, elapsed_s: float) -> float:
        """Cores' worth since the last look, `elapsed_s` ago; 0 when the process is gone."""
        before, self._last = self._last, self._read()
        busy, own = (now - then for now, then in zip(self._last, before, strict=True))
        return max(0.0, (busy - own) / elapsed_s)

    def _read(self) -> tuple[float, float]:
        times = psutil.cpu_times()
        try:
            own = psutil.Process(self._own_process).cpu_times()
        except psutil.Error:
            return self._last
        idle = times.idle + getattr(times, "iowait", 0.0)
        # `guest` is part of `user` already.
        everything = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return everything - idle, own.user + own.system
