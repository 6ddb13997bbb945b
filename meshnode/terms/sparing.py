"""The settings that say when a machine may work for other nodes, and what it keeps for its owner."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from meshnode.terms.hours import Hours, parse_hours


class Sparing(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a node's settings; the descriptions are what the documentation quotes."""

    owner_slots: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="Slots of each engine that are kept for this node's own requests; 0 gives all to the mesh.",
        ),
    ] = 1
    spare_hours: Annotated[
        tuple[Annotated[str, Meta(max_length=256)], ...],
        Meta(
            description="When others' work may run here, such as 22:00-07:00 or Mon-Fri 18:00-08:00; empty: always."
        ),
    ] = ()
    spare_on_mains: Annotated[
        bool, Meta(description="Work for others only on mains power, never on battery.")
    ] = False
    spare_battery_above: Annotated[
        int,
        Meta(ge=0, le=99, description="Work for others only with more charge than that, in percent; 0: any."),
    ] = 0
    spare_idle_s: Annotated[
        int,
        Meta(
            ge=0,
            le=86_400,
            description="Work for others only when nobody has typed or pointed for so many seconds; 0: always.",
        ),
    ] = 0
    spare_cpu_below: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="Work for others only while other programs take less of the processor, in percent; 0: any.",
        ),
    ] = 0
    spare_temperature_below: Annotated[
        int,
        Meta(
            ge=0, le=150, description="Work for others only while the processor is cooler, in °C; 0: always."
        ),
    ] = 0
    spare_memory_above_mb: Annotated[
        int,
        Meta(ge=0, le=1 << 24, description="Work for others only with more memory free, in MiB; 0: always."),
    ] = 0
    spare_calm_s: Annotated[
        int,
        Meta(ge=1, le=86_400, description="How long all this must hold before others' work is taken again."),
    ] = 30

    def hours(self) -> tuple[Hours, ...]:
        """The hours in which others' work may run, read; raises ValueError that says what is wrong."""
        return tuple(map(parse_hours, self.spare_hours))
