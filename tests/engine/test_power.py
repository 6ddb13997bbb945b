"""Watts are read where the machine tells them, and are 0 where it does not."""

import pytest

from meshnode.engine.power import Meter


@pytest.fixture
def machine(tmp_path):
    """Writes files below a root, by path."""

    def write(path, text):
        file = tmp_path / "sys/class" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    write.root = tmp_path
    return write


def meter(machine, gpus=0.0):
    return Meter(machine.root, gpus=lambda: gpus)


def test_a_machine_that_tells_nothing_draws_nothing_that_is_known(machine):
    assert meter(machine).look(1.0) == 0.0


def test_counters_of_all_packages_add_up_and_their_parts_do_not(machine):
    for zone, energy in (("intel-rapl:0", 1e6), ("intel-rapl:1", 5e6), ("intel-rapl:0:0", 0)):
        machine(f"powercap/{zone}/energy_uj", int(energy))
    reading = meter(machine)
    machine("powercap/intel-rapl:0/energy_uj", 31_000_000)
    machine("powercap/intel-rapl:1/energy_uj", 25_000_000)
    machine("powercap/intel-rapl:0:0/energy_uj", 900_000_000)
    assert reading.look(2.0) == pytest.approx(25.0)
    assert reading.look(2.0) == 0.0


def test_a_counter_that_wraps_goes_on(machine):
    machine("powercap/intel-rapl:0/energy_uj", 999_000_000)
    machine("powercap/intel-rapl:0/max_energy_range_uj", 1_000_000_000)
    reading = meter(machine)
    machine("powercap/intel-rapl:0/energy_uj", 9_000_000)
    assert reading.look(1.0) == pytest.approx(10.0)


def test_a_counter_that_jumps_is_not_believed(machine):
    machine("powercap/intel-rapl:0/energy_uj", 0)
    reading = meter(machine)
    machine("powercap/intel-rapl:0/energy_uj", 10**15)
    assert reading.look(1.0) == 0.0


@pytest.mark.parametrize(
    ("status", "watts"), [("Discharging", 12.5), ("Charging", 0.0), ("Full", 0.0), ("", 0.0)]
)
def test_a_battery_counts_while_it_feeds_the_machine(machine, status, watts):
    machine("power_supply/BAT0/type", "Battery")
    machine("power_supply/BAT0/status", status)
    machine("power_supply/BAT0/power_now", 12_500_000)
    machine("power_supply/AC/type", "Mains")
    assert meter(machine).look(1.0) == pytest.approx(watts)


def test_a_battery_that_tells_current_and_voltage_will_do(machine):
    machine("power_supply/BAT1/type", "Battery")
    machine("power_supply/BAT1/status", "Discharging")
    machine("power_supply/BAT1/current_now", -1_500_000)
    machine("power_supply/BAT1/voltage_now", 12_000_000)
    assert meter(machine).look(1.0) == pytest.approx(18.0)


def test_gpus_are_added_to_the_processor(machine):
    machine("powercap/intel-rapl:0/energy_uj", 0)
    reading = meter(machine, gpus=200.0)
    machine("powercap/intel-rapl:0/energy_uj", 50_000_000)
    assert reading.look(1.0) == pytest.approx(250.0)


def test_a_file_that_cannot_be_read_is_not_there(machine):
    machine("powercap/intel-rapl:0/energy_uj", "garbage")
    assert meter(machine).look(1.0) == 0.0
