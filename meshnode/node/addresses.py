"""Where other machines may find a listener of this one. It knows interfaces, and nothing of who asks."""

import psutil

from meshnode.control.invite import reachable_addresses


def addresses_at(host: str, bound: str) -> tuple[str, ...]:
    """The addresses of this machine for a listener at `bound`, which was told to listen at `host`."""
    if not bound.startswith("ws"):
        return (bound,)
    port = int(bound.rpartition(":")[2].rstrip("/"))
    up = [name for name, stats in psutil.net_if_stats().items() if stats.isup]
    return reachable_addresses(psutil.net_if_addrs(), up=up, host=host, port=port)
