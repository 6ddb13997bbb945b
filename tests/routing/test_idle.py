"""Machines and their owners' rules as plays: what pauses others' work, what lets it back, and what does not flap."""

from typing import Any

import msgspec
import pytest

from meshnode.config import Config
from meshnode.routing.idle import CALM_MAX_S, Rules, Watcher, broken_rules, rules_of, untold
from meshnode.terms import Openness, Reading
from meshnode.terms.hours import parse_hours

ALL = Rules(
    hours=(parse_hours("22:00-07:00"),),
    on_mains=True,
    user_idle_s=60.0,
    cpu_below=0.5,
    battery_above=0.4,
    temperature_below_c=80.0,
    memory_above_bytes=1 << 30,
    calm_s=30.0,
)
CALM = Reading(
    weekday=0,
    minute=23 * 60,
    user_idle_s=1000.0,
    others_cpu=0.0,
    on_mains=True,
    battery=0.9,
    temperature_c=50.0,
    free_memory_bytes=8 << 30,
)
PAUSED, OPEN, LATER = Openness.PAUSED_FOR_REMOTE, Openness.ACCEPTING, Openness.DEPRIORITISED


def but(**changes: Any) -> Reading:
    return msgspec.structs.replace(CALM, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"minute": 12 * 60}, "hours"),
        ({"on_mains": False}, "on battery"),
        ({"user_idle_s": 0.2}, "keyboard"),
        ({"others_cpu": 0.6}, "other programs take 60%"),
        ({"battery": 0.3}, "battery is at 30%"),
        ({"temperature_c": 90.0}, "90 °C"),
        ({"free_memory_bytes": 100 << 20}, "100 MiB"),
        ({"signs": ("a game is running",)}, "a game is running"),
    ],
)
def test_each_broken_rule_pauses_at_the_first_look_and_says_why_to_its_owner(
    changes: dict[str, Any], why: str
) -> None:
    watcher = Watcher(ALL)
    assert watcher.look(CALM, 0.0).openness is OPEN
    verdict = watcher.look(but(**changes), 0.25)
    assert verdict.openness is PAUSED
    assert len(verdict.why) == 1
    assert why in verdict.why[0]
    assert not list(broken_rules(Rules(), but(**{**changes, "signs": ()})))


def test_what_the_system_does_not_tell_breaks_no_rule_and_is_told_of() -> None:
    watcher = Watcher(ALL)
    silent = Reading(minute=23 * 60)
    assert watcher.look(silent, 0.0).openness is OPEN
    assert untold(ALL, silent) == ("spare_idle_s", "spare_cpu_below", "spare_temperature_below")
    assert untold(ALL, CALM) == untold(Rules(), silent) == ()


def looks(watcher: Watcher, reading: Reading, begin_s: float, end_s: float) -> list[Openness]:
    """What each look of so many seconds gives, four a second."""
    return [watcher.look(reading, now / 4).openness for now in range(int(begin_s * 4), int(end_s * 4))]


def test_only_a_calm_machine_takes_work_again() -> None:
    watcher = Watcher(ALL)
    watcher.look(but(others_cpu=0.9), 0.0)
    assert set(looks(watcher, CALM, 1, 31)) == {PAUSED}
    assert looks(watcher, CALM, 31, 32)[0] is OPEN
    watcher = Watcher(ALL)
    watcher.look(but(others_cpu=0.9), 0.0)
    looks(watcher, CALM, 1, 20)
    watcher.look(but(others_cpu=0.6), 20.0)  # not calm after all
    assert set(looks(watcher, CALM, 21, 50)) == {PAUSED}


def test_just_inside_a_bound_is_not_calm_but_does_not_pause_either() -> None:
    watcher = Watcher(ALL)
    assert set(looks(watcher, but(others_cpu=0.45), 0, 5)) == {LATER}
    watcher.look(but(others_cpu=0.9), 5.0)
    assert set(looks(watcher, but(others_cpu=0.45), 6, 100)) == {PAUSED}


def test_hours_and_a_plug_need_no_calm() -> None:
    watcher = Watcher(ALL)
    assert watcher.look(but(minute=12 * 60), 0.0).openness is PAUSED
    assert watcher.look(CALM, 0.25).openness is OPEN
    assert watcher.look(but(on_mains=False), 0.5).openness is PAUSED
    assert watcher.look(CALM, 0.75).openness is OPEN


def test_who_relapses_takes_ever_longer_to_be_believed() -> None:
    watcher = Watcher(ALL)
    now, waits = 0.0, []
    for _ in range(7):
        watcher.look(but(others_cpu=0.9), now)
        paused_at = now
        while watcher.look(CALM, now + 1).openness is PAUSED:
            now += 1
        waits.append(round(now - paused_at))
        now += 10
    assert waits == sorted(waits)
    assert waits[:3] == [30, 60, 120]
    assert waits[-1] == CALM_MAX_S
    watcher.look(but(others_cpu=0.9), now + 1000)
    assert set(looks(watcher, CALM, now + 1001, now + 1030)) == {PAUSED}
    assert watcher.look(CALM, now + 1032).openness is OPEN  # that was long ago


def test_its_owner_may_cut_the_waiting_short_but_not_the_rules() -> None:
    watcher = Watcher(ALL)
    watcher.look(but(user_idle_s=0.0), 0.0)
    watcher.wait_no_longer()
    assert watcher.look(but(user_idle_s=1.0), 0.25).openness is PAUSED
    watcher.wait_no_longer()
    assert watcher.look(CALM, 0.5).openness is OPEN


def test_near_a_bound_others_are_asked_first() -> None:
    verdict = Watcher(ALL).look(but(temperature_c=75.0), 0.0)
    assert verdict.openness is LATER
    assert verdict.why == ("nearly: the processor has 75 °C",)


def test_the_rules_follow_the_settings_and_none_is_set_by_itself(tmp_path: Any) -> None:
    assert not rules_of(Config(home=tmp_path)).any
    settings = Config(
        home=tmp_path,
        spare_hours=("22:00-07:00",),
        spare_on_mains=True,
        spare_battery_above=40,
        spare_idle_s=60,
        spare_cpu_below=50,
        spare_temperature_below=80,
        spare_memory_above_mb=1024,
    )
    assert rules_of(settings) == ALL


# --- Hours ---


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22:00-07:00", [(0, 22, 0), (1, 6, 59), (6, 23, 0)], [(0, 7, 0), (0, 21, 59)]),
        ("09:00-17:30", [(3, 9, 0), (3, 17, 29)], [(3, 17, 30), (3, 8, 59)]),
        ("Mon-Fri 18:00-08:00", [(4, 18, 0), (5, 7, 59)], [(5, 18, 0), (0, 7, 59), (6, 20, 0)]),
        ("Sat,Sun", [(5, 0, 0), (6, 23, 59)], [(0, 0, 0), (4, 23, 59)]),
        ("fri-mon 10:00-24:00", [(4, 10, 0), (0, 23, 59), (6, 12, 0)], [(1, 12, 0), (0, 9, 0)]),
        ("Saturday", [(5, 12, 0)], [(6, 12, 0)]),
    ],
)
def test_hours_of_the_week(
    text: str, inside: list[tuple[int, int, int]], outside: list[tuple[int, int, int]]
) -> None:
    hours = parse_hours(text)
    assert all(hours.hold(day, hour * 60 + minute) for day, hour, minute in inside)
    assert not any(hours.hold(day, hour * 60 + minute) for day, hour, minute in outside)


@pytest.mark.parametrize(
    "text",
    ["", "Mon Tue 10:00-11:00", "xyz", "25:00-26:00", "10:60-11:00", "10:00", "Mon 10:00-10:00", "10-12"],
)
def test_what_are_no_hours(text: str) -> None:
    with pytest.raises(ValueError, match=r"day|time"):
        parse_hours(text)
