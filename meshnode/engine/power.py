"""What the machine draws, in watts, where it can tell: processor counters, a discharging battery, or a GPU.

Sources are Linux's: RAPL energy counters under /sys/class/powercap, /sys/class/power_supply, and NVML when
its Python binding is installed. A machine that tells nothing gives 0. It knows no engines.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

WATTS_MAX = 20_000.0  # more is a counter that has jumped
SUPPLIES_MAX = 8


class Meter:
    """Reads power, look by look. `root` is where the machine's files are; `gpus` reads the GPUs' watts."""

    def __init__(self, root: Path = Path("/"), gpus: Callable[[], float] | None = None) -> None:
        self._zones = _packages(root / "sys/class/powercap")
        self._supplies = sorted((root / "sys/class/power_supply").glob("*"))[:SUPPLIES_MAX]
        self._gpus = gpus or _nvml()
        self._energies = [_number(zone / "energy_uj") for zone in self._zones]

    def look(self, elapsed_s: float) -> float:
        """Watts on average since the last look, `elapsed_s` ago; 0 when the machine cannot tell.

        A battery that discharges feeds the whole machine and is believed; else processor and GPUs add up.
        """
        packages = self._since_last(elapsed_s)
        watts = self._battery() or packages + self._gpus()
        return watts if 0 < watts <= WATTS_MAX else 0.0

    def _since_last(self, elapsed_s: float) -> float:
        before, self._energies = self._energies, [_number(zone / "energy_uj") for zone in self._zones]
        joules = 0.0
        for zone, then, now in zip(self._zones, before, self._energies, strict=True):
            if then is None or now is None:
                continue
            wrapped = (_number(zone / "max_energy_range_uj") or 0.0) if now < then else 0.0
            joules += max(0.0, now - then + wrapped) / 1e6
        return joules / max(elapsed_s, 1e-3)

    def _battery(self) -> float:
        return sum(_discharge(supply) for supply in self._supplies)


def _packages(powercap: Path) -> list[Path]:
    """The processor packages, without their parts, which are counted in them."""
    found = sorted(powercap.glob("*rapl*:*"))
    return [zone for zone in found if zone.name.count(":") == 1 and _number(zone / "energy_uj") is not None]


def _discharge(supply: Path) -> float:
    """The watts that come out of a battery now; 0 for one that is charged or is none."""
    if _text(supply / "type") != "Battery" or _text(supply / "status") != "Discharging":
        return 0.0
    power = _number(supply / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, volts = _number(supply / "current_now"), _number(supply / "voltage_now")
    return abs(current) / 1e6 * volts / 1e6 if current is not None and volts is not None else 0.0


def _nvml() -> Callable[[], float]:
    """A reader of all NVIDIA GPUs; one that reads 0 where there is no binding, driver or GPU."""
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except Exception:  # noqa: BLE001 - a missing or broken driver in whatever way is "cannot tell"
        return lambda: 0.0

    def read() -> float:
        try:
            return float(sum(nvml.nvmlDeviceGetPowerUsage(handle) for handle in handles) / 1e3)
        except nvml.NVMLError:
            return 0.0

    return read


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    """A file's content; empty when it cannot be read: energy counters are root's alone on many systems."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
