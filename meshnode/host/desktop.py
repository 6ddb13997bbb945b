"""How long nobody has typed or pointed in a GNOME session, as its compositor tells over D-Bus.

Mutter's interface org.gnome.Mutter.IdleMonitor counts milliseconds, on Wayland and X alike. It needs the extra
`meshnode[desktop]` (jeepney). Others' screen savers are not asked: they do not agree on the unit.
"""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

ASK_WITHIN_S = 0.2
AGAIN_S = 60.0  # after a session that does not answer, or is none
PATH, NAME = "/org/gnome/Mutter/IdleMonitor/Core", "org.gnome.Mutter.IdleMonitor"


class Desktop:
    """Asks the session of whoever runs this process. `clock` gives seconds, of any kind."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._connection: Any = None
        self._not_before = -AGAIN_S

    def idle_s(self) -> float | None:
        """Seconds since the last input; None where there is no such session."""
        if self._clock() < self._not_before:
            return None
        try:
            return self._ask()
        except Exception:  # noqa: BLE001 - whatever is missing or broken there is "cannot tell"
            self.close()
            self._not_before = self._clock() + AGAIN_S
            return None

    def _ask(self) -> float:
        jeepney: Any = import_module("jeepney")
        if self._connection is None:
            blocking: Any = import_module("jeepney.io.blocking")
            self._connection = blocking.open_dbus_connection(os.environ["DBUS_SESSION_BUS_ADDRESS"])
        address = jeepney.DBusAddress(PATH, bus_name=NAME, interface=NAME)
        question = jeepney.new_method_call(address, "GetIdletime")
        reply = self._connection.send_and_get_reply(question, timeout=ASK_WITHIN_S)
        return float(reply.body[0]) / 1000  # an error's body is no number

    def close(self) -> None:
        """Leave the session's bus."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
