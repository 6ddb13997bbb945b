"""When a machine has room for others' work: its owner's rules against what it is doing. Pure.

A broken rule pauses others' work at once. Work is taken again only after the machine has been calm for a while, with
a margin to each bound, and for longer each time when it was in vain: so nothing flaps, and what others see of it
tells them little.
"""

from collections.abc import Iterator

import msgspec

from meshnode.terms import Openness, Reading
from meshnode.terms.hours import Hours
from meshnode.terms.sparing import Sparing

CALM_S = 30.0  # without a broken rule, before others' work is taken again
CALM_MAX_S = 600.0
RELAPSE_S = 300.0  # a pause so soon after the last one was over doubles the calm it takes
MARGIN_CPU = 0.1  # of the machine
MARGIN_BATTERY = 0.05
MARGIN_C = 5.0
MARGIN_MEMORY = 1.25  # times the bound
NEAR = 2.0  # margins from a bound: others should rather ask elsewhere


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold for others' work; None, or nothing, is no rule. Units as in Reading.

    `hours` are when it may run, `user_idle_s` how long nobody must have typed; programs other than this node may take
    less than `cpu_below`, 0 to 1; the battery must have more than `battery_above` and the processor be cooler than
    `temperature_below_c`.
    """

    hours: tuple[Hours, ...] = ()
    on_mains: bool = False
    user_idle_s: float | None = None
    cpu_below: float | None = None
    battery_above: float | None = None
    temperature_below_c: float | None = None
    memory_above_bytes: int | None = None
    calm_s: float = CALM_S

    @property
    def any(self) -> bool:
        """Whether there is a rule at all."""
        return self != Rules(calm_s=self.calm_s)


class Broken(msgspec.Struct, frozen=True):
    """A rule that does not hold. `passing` that the owner's activity broke it, so that calm is waited for."""

    why: str
    passing: bool = True


class Verdict(msgspec.Struct, frozen=True):
    """What follows from one look, and why, for the owner's eyes only."""

    openness: Openness
    why: tuple[str, ...] = ()


class Watcher:
    """Follows a machine, look by look. A machine that nobody has looked at has room, where its rules allow it."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._paused = False
        self._calm_since: float | None = None
        self._calm_s = rules.calm_s
        self._opened_at = -RELAPSE_S

    def look(self, reading: Reading, now: float) -> Verdict:
        """One look, at `now` (seconds of any one clock)."""
        broken = tuple(broken_rules(self.rules, reading, margins=1 if self._paused else 0))
        if broken:
            self._pause(now)
            self._calm_since = None if any(one.passing for one in broken) else now - self._calm_s
            return Verdict(Openness.PAUSED_FOR_REMOTE, tuple(one.why for one in broken))
        if self._paused and (left_s := self._calm_left_s(now)) > 0:
            return Verdict(
                Openness.PAUSED_FOR_REMOTE, (f"in use until lately; calm for {left_s:.0f} s more opens it",)
            )
        if self._paused:
            self._paused, self._opened_at = False, now
        near = tuple(one.why for one in broken_rules(self.rules, reading, margins=NEAR) if one.passing)
        return Verdict(
            Openness.DEPRIORITISED if near else Openness.ACCEPTING, tuple(f"nearly: {why}" for why in near)
        )

    def wait_no_longer(self) -> None:
        """The owner says that the machine may be used: unless a rule is broken, it is open at the next look."""
        self._paused = False

    def _pause(self, now: float) -> None:
        if self._paused:
            return
        relapsed = now - self._opened_at < RELAPSE_S
        self._calm_s = min(self._calm_s * 2, CALM_MAX_S) if relapsed else self.rules.calm_s
        self._paused = True

    def _calm_left_s(self, now: float) -> float:
        if self._calm_since is None:
            self._calm_since = now
        return self._calm_since + self._calm_s - now


def broken_rules(rules: Rules, reading: Reading, *, margins: float = 0) -> Iterator[Broken]:
    """The rules that do not hold, so many margins before their bounds; what a system does not tell breaks none."""
    if rules.hours and not any(hours.hold(reading.weekday, reading.minute) for hours in rules.hours):
        yield Broken("outside its hours", passing=False)
    if rules.on_mains and reading.on_mains is False:
        yield Broken("on battery", passing=False)
    yield from (Broken(sign) for sign in reading.signs)
    if _below(reading.user_idle_s, rules.user_idle_s):
        yield Broken("somebody is at the keyboard")
    if _below(rules.cpu_below, reading.others_cpu, margins * MARGIN_CPU):
        yield Broken(f"other programs take {reading.others_cpu:.0%} of the processor")
    if _below(reading.battery, rules.battery_above, margins * MARGIN_BATTERY):
        yield Broken(f"the battery is at {reading.battery:.0%}")
    if _below(rules.temperature_below_c, reading.temperature_c, margins * MARGIN_C):
        yield Broken(f"the processor has {reading.temperature_c:.0f} °C")
    if _below(reading.free_memory_bytes, (rules.memory_above_bytes or 0) * MARGIN_MEMORY**margins):
        yield Broken(f"only {(reading.free_memory_bytes or 0) >> 20} MiB of memory are free")


def rules_of(settings: Sparing) -> Rules:
    """The rules in a node's settings, where 0 stands for none."""
    return Rules(
        hours=settings.hours(),
        on_mains=settings.spare_on_mains,
        user_idle_s=settings.spare_idle_s or None,
        cpu_below=settings.spare_cpu_below / 100 or None,
        battery_above=settings.spare_battery_above / 100 or None,
        temperature_below_c=settings.spare_temperature_below or None,
        memory_above_bytes=settings.spare_memory_above_mb << 20 or None,
        calm_s=settings.spare_calm_s,
    )


def untold(rules: Rules, reading: Reading) -> tuple[str, ...]:
    """The rules, by the names of their settings, that mean nothing here: the system does not tell what they need."""
    pairs = (
        ("spare_idle_s", rules.user_idle_s, reading.user_idle_s),
        ("spare_cpu_below", rules.cpu_below, reading.others_cpu),
        ("spare_temperature_below", rules.temperature_below_c, reading.temperature_c),
    )
    return tuple(name for name, bound, told in pairs if bound is not None and told is None)


def _below(value: float | None, bound: float | None, margin: float = 0.0) -> bool:
    """Whether a value that is known comes nearer to a bound that is set than by the margin, or is below it."""
    return value is not None and bound is not None and value - margin < bound
