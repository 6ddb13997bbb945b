"""Making a ticket for the next device, and choosing the addresses to put into it. It knows no sockets."""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from meshnode.errors import BadRequest, Unreachable
from meshnode.identity import Identity
from meshnode.seams import Seams
from meshnode.state.store import Store
from meshnode.trust.certificates import LABEL_TRUSTED
from meshnode.trust.membership import Mesh, require_issuer
from meshnode.trust.tickets import SECRET_BYTES, Ticket, row_of, to_text

DAY_S = 24 * 3600
EXPIRES_DEFAULT_S = DAY_S
EXPIRES_MIN_S = 60
EXPIRES_MAX_S = 30 * DAY_S
ADDRESSES_PUT = 4
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}

# Bridges and cables of containers and virtual machines, which lead nowhere from another device.
CONTAINER_INTERFACES = re.compile(r"(docker|veth|br-|virbr|cni|flannel|cali|podman|lxc|lxd|vmnet|vboxnet)")

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class InterfaceAddress(Protocol):
    """One address of a network interface, as psutil names it."""

    @property
    def address(self) -> str:
        """An IP address, perhaps with a %scope, or something else such as a MAC address."""
        ...


async def invite(
    identity: Identity,
    mesh: Mesh,
    store: Store,
    seams: Seams,
    *,
    addresses: Sequence[str],
    expires_s: int = EXPIRES_DEFAULT_S,
    labels: tuple[str, ...] = (LABEL_TRUSTED,),
) -> str:
    """A ticket, as text, for one device that then belongs to the mesh with these labels.

    Raises NotAllowed if this node is no issuer or the mesh is open, BadRequest for an impossible expiry, and
    Unreachable if there is no address to name.
    """
    require_issuer(mesh)
    if not EXPIRES_MIN_S <= expires_s <= EXPIRES_MAX_S:
        raise BadRequest("A ticket lasts between 1 minute and 30 days.", param="expires")
    if not addresses or mesh.root_key is None:
        raise Unreachable(
            "This device has no address that another one could reach.",
            hint="Connect it to a network, or name an address with --advertise.",
        )
    now_ms = seams.now_ms()
    ticket = Ticket(
        root_key=mesh.root_key,
        issuer=identity.key,
        addresses=tuple(addresses[:ADDRESSES_PUT]),
        secret=seams.entropy(SECRET_BYTES),
        expires_ms=now_ms + expires_s * 1000,
        mesh_name=mesh.name,
    )
    await store.add_ticket(row_of(ticket, labels=labels), now_ms)
    return to_text(ticket)


def duration_s(text: str) -> int:
    """Seconds in a duration such as `90s`, `30m`, `12h` or `7d`; raises BadRequest."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text.strip().lower())
    if found is None:
        raise BadRequest(f"{text!r} is not a duration.", hint="Write it as 30m, 12h or 7d.", param="expires")
    return int(found[1]) * UNIT_S[found[2]]


def reachable_addresses(
    interfaces: Mapping[str, Iterable[InterfaceAddress]], *, up: Iterable[str], host: str, port: int
) -> tuple[str, ...]:
    """The mesh addresses of this machine that another device might reach, the likeliest first.

    `interfaces` maps names to addresses as `psutil.net_if_addrs()` does; `up` names those that are up; `host`
    is what the mesh listens on: a wildcard means all of them, another host means only that one. Container and
    link-local addresses are left out, and loopback too unless there is nothing else.
    """
    if not _is_wildcard(host):
        return (_url(host, port),)
    names = sorted(name for name in set(up) if not CONTAINER_INTERFACES.match(name))
    found = [ip for name in names for row in interfaces.get(name, ()) if (ip := _parse(row.address))]
    if ipaddress.ip_address(host).version == 4:
        found = [ip for ip in found if ip.version == 4]
    outside = [ip for ip in found if not ip.is_loopback]
    return tuple(_url(str(ip), port) for ip in sorted(outside or found, key=_likelihood))


def _parse(text: str) -> Ip | None:
    """The address, unless it is no IP address or none that is good outside its own link."""
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return None if ip.is_link_local or ip.is_multicast or ip.is_unspecified else ip


def _likelihood(ip: Ip) -> tuple[bool, bool, bytes]:
    """Sorts IPv4 before IPv6 and home networks before the rest."""
    return ip.version == 6, not ip.is_private, ip.packed


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _url(host: str, port: int) -> str:
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
