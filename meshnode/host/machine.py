"""One look at the machine after the other, as plain facts. It blocks for milliseconds, so it is called in a thread.

Games, and work on a GPU that is not this node's, cannot be told from here: whoever can tell of them hands in `signs`.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psutil

from meshnode.host.desktop import Desktop
from meshnode.host.keyboard import Keyboard
from meshnode.host.processor import Others
from meshnode.terms import Reading

CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")  # Intel, AMD, ARM


class Machine:
    """Reads the machine. `wall` gives unix seconds; `signs` are words for what else shows that its owner needs it."""

    def __init__(
        self,
        wall: Callable[[], float],
        free_memory_bytes: Callable[[], int],
        signs: Callable[[], tuple[str, ...]] = tuple,
        keyboard: Keyboard | None = None,
    ) -> None:
        self._wall = wall
        self._free_memory_bytes = free_memory_bytes
        self._signs = signs
        self._keyboard = keyboard or Keyboard(wall, more=(Desktop(wall).idle_s,))
        self._others = Others()
        self._looked_at = wall()

    def look(self) -> Reading:
        """What it is doing now; of the processor, since the looks before."""
        before, self._looked_at = self._looked_at, self._wall()
        local = datetime.fromtimestamp(self._looked_at, UTC).astimezone()
        on_mains, charge = power()
        return Reading(
            weekday=local.weekday(),
            minute=local.hour * 60 + local.minute,
            user_idle_s=self._keyboard.idle_s(),
            others_cpu=self._others.look(self._looked_at - before),
            on_mains=on_mains,
            battery=charge,
            temperature_c=temperature_c(),
            free_memory_bytes=self._free_memory_bytes(),
            signs=self._signs(),
        )


def power() -> tuple[bool | None, float | None]:
    """Whether the machine is on mains, and its battery's charge, 0 to 1; one without a battery is on mains."""
    battery: Any = _told("sensors_battery")
    if battery is None:
        return True, None
    return battery.power_plugged, battery.percent / 100


def temperature_c() -> float | None:
    """The hottest sensor of the processor; None where the system shows none."""
    every: Any = _told("sensors_temperatures") or {}
    told = [sensor.current for chip in CHIPS for sensor in every.get(chip, ())]
    return max(told, default=None)


def _told(sensors: str) -> Any:
    """What psutil tells of such sensors; None where there are none, or a driver answers nonsense."""
    try:
        return getattr(psutil, sensors)()
    except (AttributeError, OSError, RuntimeError, ValueError):
        return None
