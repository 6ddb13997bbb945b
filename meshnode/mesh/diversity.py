"""Address groups: which nodes are likely to be one owner's, as far as the places they answer from tell.

Addresses cost more than keys, so in a mesh that anybody may join no group gets more than its share of a table,
a lookup or a list of providers. It resolves no names and knows no nodes.
"""

from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

V4_GROUP, V6_GROUP = 24, 56  # prefix lengths; a home has a whole IPv6 /56
DOMAIN_LABELS = 2


def group_of(address: str) -> str:
    """The group of an address: its IPv4 /24 or IPv6 /56, or the end of its host's name; empty for a local one.

    What cannot be reached from the whole internet (a home's network, this machine, names without a dot) forms
    no group: a home would be one, and nobody outside can answer from there.
    """
    host = _host(address)
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return _domain(host)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if not ip.is_global:
        return ""
    return str(ip_network((ip, V4_GROUP if ip.version == 4 else V6_GROUP), strict=False))


def _host(address: str) -> str:
    try:
        return urlsplit(address if "://" in address else f"//{address}").hostname or address
    except ValueError:
        return address


def _domain(host: str) -> str:
    """All names under one domain are one group: its owner makes as many as it likes."""
    labels = host.rstrip(".").split(".")
    return ".".join(labels[-DOMAIN_LABELS:]) if len(labels) > 1 and labels[-1] != "local" else ""
