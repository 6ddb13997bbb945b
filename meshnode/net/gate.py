"""Who may knock: how many strangers at once from one address, and how fast from one neighbourhood.

A connection is a stranger's until its other end has proved a key. Pure: the time is an argument.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from meshwire.limits import UNAUTHENTICATED_BURST, UNAUTHENTICATED_PER_ADDRESS, UNAUTHENTICATED_RATE_PER_S

NEIGHBOURHOODS_MAX = 1024
V4_NEIGHBOURHOOD, V6_ADDRESS, V6_NEIGHBOURHOOD = 24, 56, 48  # prefix lengths; a home has a whole IPv6 /56


class Gate:
    """Counts strangers by address, and their arrivals by neighbourhood as token buckets."""

    def __init__(self) -> None:
        self._present: dict[str, int] = {}
        self._tokens: dict[str, tuple[float, float]] = {}  # neighbourhood: tokens left, at which time

    def enter(self, address: str, now: float) -> bool:
        """Whether one more stranger may come in from this address; counts it if so."""
        one, neighbourhood = _names(address)
        tokens = self._tokens_of(neighbourhood, now)
        if tokens < 1 or self._present.get(one, 0) >= UNAUTHENTICATED_PER_ADDRESS:
            return False
        self._keep(neighbourhood, tokens - 1, now)
        self._present[one] = self._present.get(one, 0) + 1
        return True

    def leave(self, address: str) -> None:
        """A stranger has gone, or is none any more."""
        one, _ = _names(address)
        self._present[one] -= 1
        if not self._present[one]:
            del self._present[one]

    def welcome(self, address: str, now: float) -> None:
        """Whoever came turned out to be known: that arrival does not count against its neighbourhood."""
        self.leave(address)
        _, neighbourhood = _names(address)
        self._keep(neighbourhood, self._tokens_of(neighbourhood, now) + 1, now)

    def _tokens_of(self, neighbourhood: str, now: float) -> float:
        tokens, since = self._tokens.get(neighbourhood, (float(UNAUTHENTICATED_BURST), now))
        return min(float(UNAUTHENTICATED_BURST), tokens + (now - since) * UNAUTHENTICATED_RATE_PER_S)

    def _keep(self, neighbourhood: str, tokens: float, now: float) -> None:
        """Store a bucket as the newest; the oldest goes when there are too many."""
        self._tokens.pop(neighbourhood, None)
        self._tokens[neighbourhood] = (tokens, now)
        if len(self._tokens) > NEIGHBOURHOODS_MAX:
            del self._tokens[next(iter(self._tokens))]


def _names(address: str) -> tuple[str, str]:
    """The address, or its /56, and its neighbourhood, as keys."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if isinstance(ip, IPv4Address):
        return str(ip), _network(ip, V4_NEIGHBOURHOOD)
    return _network(ip, V6_ADDRESS), _network(ip, V6_NEIGHBOURHOOD)


def _network(ip: IPv4Address | IPv6Address, prefix: int) -> str:
    return str(ip_network((ip, prefix), strict=False))
