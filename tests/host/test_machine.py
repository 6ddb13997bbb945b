"""The machine as it is: figures that make sense, terminals that are typed at, programs that compute."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from meshnode.host.desktop import AGAIN_S, NAME, PATH, Desktop
from meshnode.host.keyboard import Keyboard
from meshnode.host.machine import Machine, power, temperature_c
from meshnode.host.processor import Others

BURN = "while True: pass"


def test_a_look_tells_what_there_is_to_tell() -> None:
    machine = Machine(time.time, lambda: 5 << 30, lambda: ("a game",))
    machine.look()
    time.sleep(0.05)
    reading = machine.look()
    now = time.localtime()
    assert (reading.weekday, reading.minute // 60) == (now.tm_wday, now.tm_hour)
    assert reading.others_cpu is not None
    assert 0 <= reading.others_cpu <= 1
    assert (reading.free_memory_bytes, reading.signs) == (5 << 30, ("a game",))


@pytest.fixture
def burners() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_what_this_process_and_its_children_compute_is_not_others(
    burners: list[subprocess.Popen[bytes]],
) -> None:
    """The same work, once in a child that nobody knew of before and once seen by somebody else."""
    stranger = subprocess.Popen(["sleep", "60"])
    burners.append(stranger)
    own, other = Others(), Others(stranger.pid)
    burners += [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(psutil.cpu_count() or 1)]
    seen_s, then = 0.0, time.perf_counter()
    for _ in range(8):
        time.sleep(0.25)
        then, elapsed_s = time.perf_counter(), time.perf_counter() - then
        mine, theirs = own.look(elapsed_s), other.look(elapsed_s)
        seen_s += ((theirs or 0.0) - (mine or 0.0)) * elapsed_s * (psutil.cpu_count() or 1)
    # Whatever else the machine does is in both; the burners are in one of them alone.
    burnt_s = sum(psutil.Process(process.pid).cpu_times().user for process in burners[1:])
    assert burnt_s * 0.5 <= seen_s <= burnt_s * 1.2 + 0.1


def test_other_programs_show_within_a_second(burners: list[subprocess.Popen[bytes]]) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    others = Others(stranger.pid)
    burners += [
        stranger,
        *(subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(psutil.cpu_count() or 1)),
    ]
    shares = []
    for _ in range(4):
        time.sleep(0.25)
        shares.append(others.look(0.25))
    assert shares[0] is None  # one look alone is not believed
    assert shares[-1] is not None
    assert shares[-1] > 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="pseudo-terminals are elsewhere on other systems")
def test_typing_at_a_terminal_shows_at_once() -> None:
    ahead = 100.0  # as if that much time had passed since the terminals were last read from
    keyboard = Keyboard(lambda: time.time() + ahead)
    master, slave = os.openpty()
    try:
        os.utime(os.ttyname(slave), (time.time() - 50, time.time() - 50))
        os.write(master, b"x\n")
        os.read(slave, 8)
        idle_s = keyboard.idle_s()
        assert idle_s is not None
        assert ahead - 1 <= idle_s <= ahead + 9
    finally:
        os.close(master)
        os.close(slave)


def test_where_there_is_no_terminal_nothing_is_told(tmp_path: Path) -> None:
    assert Keyboard(time.time, tmp_path).idle_s() is None
    assert Keyboard(time.time, tmp_path, more=(lambda: None, lambda: 3.0, lambda: 4.0)).idle_s() == 3.0


def test_terminals_count_by_the_latest(tmp_path: Path) -> None:
    (tmp_path / "pts").mkdir()
    for name, at in (("pts/0", 100), ("pts/1", 300), ("tty1", 200), ("pts/ptmx", 900)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at, at))
    assert Keyboard(lambda: 1000.0, tmp_path).idle_s() == 700.0


class _Battery:
    percent, power_plugged = 63, False


def test_power_and_heat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: _Battery, raising=False)
    assert power() == (False, 0.63)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None, raising=False)
    assert power() == (True, None)
    sensor = type("Sensor", (), {"current": 71.0})
    chips = {"coretemp": [sensor], "nvme": [type("Sensor", (), {"current": 99.0})]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: chips, raising=False)
    assert temperature_c() == 71.0

    def broken() -> None:
        raise OSError("a driver's nonsense")

    monkeypatch.setattr(psutil, "sensors_temperatures", broken, raising=False)
    assert temperature_c() is None
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)
    monkeypatch.delattr(psutil, "sensors_battery", raising=False)
    assert (temperature_c(), power()) == (None, (True, None))


MUTTER = f"""
import sys
from jeepney import DBusAddress, MessageType, new_method_return
from jeepney.bus_messages import DBus
from jeepney.io.blocking import open_dbus_connection
connection = open_dbus_connection(sys.argv[1])
connection.send_and_get_reply(DBus().RequestName({NAME!r}))
print("ready", flush=True)
while True:
    message = connection.receive()
    if message.header.message_type is MessageType.method_call:
        assert message.header.fields[1] == {PATH!r}
        connection.send(new_method_return(message, "t", (4200,)))
"""


@pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="there is no D-Bus here")
def test_a_desktop_session_tells_over_a_real_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, burners: list[subprocess.Popen[bytes]]
) -> None:
    pytest.importorskip("jeepney")
    now = [0.0]
    desktop = Desktop(lambda: now[0])
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    assert desktop.idle_s() is None
    address = f"unix:path={tmp_path}/bus"
    command = ["dbus-daemon", "--session", "--nofork", f"--address={address}", "--print-address"]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE)
    burners.append(daemon)
    assert daemon.stdout is not None
    daemon.stdout.readline()
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    now[0] += AGAIN_S
    assert desktop.idle_s() is None  # nobody has that name on the bus
    mutter = subprocess.Popen([sys.executable, "-c", MUTTER, address], stdout=subprocess.PIPE)
    burners.append(mutter)
    assert mutter.stdout is not None
    assert mutter.stdout.readline() == b"ready\n"
    assert desktop.idle_s() is None  # it is asked again after a while only
    now[0] += AGAIN_S
    assert desktop.idle_s() == desktop.idle_s() == 4.2
    desktop.close()
    for process in (mutter, daemon):
        assert process.stdout is not None
        process.stdout.close()
