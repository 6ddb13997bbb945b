"""How long nobody has typed or pointed, as far as the system tells. It decides nothing.

Every Unix notes on a terminal when it was last read from, which is when somebody last typed there; Linux does so in
steps of eight seconds, but the first key after a pause shows at once. A desktop tells over D-Bus: GNOME's compositor
and the screen savers of others. A desktop that tells neither is not seen, and `None` says so.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

Source = Callable[[], float | None]
TERMINALS = ("pts/[0-9]*", "tty[0-9]*", "ttys[0-9]*")
TERMINALS_MAX = 256


class Keyboard:
    """Reads every source of a machine. `wall` gives unix seconds, `devices` is where its terminals are."""

    def __init__(
        self, wall: Callable[[], float], devices: Path = Path("/dev"), more: Iterable[Source] = ()
    ) -> None:
        self._wall = wall
        self._devices = devices
        self._more = tuple(more)

    def idle_s(self) -> float | None:
        """Seconds since the last input anywhere; None if nothing tells."""
        told = [self._terminals_idle_s(), *(source() for source in self._more)]
        return min((one for one in told if one is not None), default=None)

    def _terminals_idle_s(self) -> float | None:
        times = [time for path in self._terminals() if (time := _read_at(path)) is not None]
        return max(0.0, self._wall() - max(times)) if times else None

    def _terminals(self) -> list[Path]:
        return [path for pattern in TERMINALS for path in self._devices.glob(pattern)][:TERMINALS_MAX]


def _read_at(path: Path) -> float | None:
    """When a terminal was last read from, in unix seconds."""
    try:
        return path.stat().st_atime
    except OSError:
        return None
