"""What a machine is doing, at one look. Facts only: whether that leaves room for others' work is elsewhere."""

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the machine; None stands for what the system does not tell.

    `weekday` is 0 for Monday and `minute` counts from midnight, both in local time. `user_idle_s` is how long nobody
    has typed or pointed; `others_cpu` the share of all cores that programs other than this node take, 0 to 1;
    `battery` its charge, 0 to 1, and None where there is none; `temperature_c` the hottest sensor of the processor.
    `signs` are words for what else shows that the owner needs the machine, such as a game or work on a GPU.
    """

    weekday: int = 0
    minute: int = 0
    user_idle_s: float | None = None
    others_cpu: float | None = None
    on_mains: bool | None = None
    battery: float | None = None
    temperature_c: float | None = None
    free_memory_bytes: int | None = None
    signs: tuple[str, ...] = ()
