"""Address groups."""

import pytest

from meshnode.mesh.diversity import group_of


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("ws://8.8.8.8:4001", "8.8.8.0/24"),
        ("8.8.8.9", "8.8.8.0/24"),
        ("ws://[2a00:1450:4001:82f::200e]:4001", "2a00:1450:4001:800::/56"),
        ("wss://[::ffff:8.8.8.8]/", "8.8.8.0/24"),
        ("wss://one.mesh.example.com:443/x", "example.com"),
        ("wss://two.example.com.", "example.com"),
        ("ws://192.168.1.7:4001", ""),
        ("ws://[fe80::1%eth0]:4001", ""),
        ("ws://127.0.0.1:1", ""),
        ("ws://kitchen.local", ""),
        ("mem://desktop", ""),
        ("ws://[broken", ""),
        ("", ""),
    ],
)
def test_an_address_has_one_group(address: str, group: str) -> None:
    assert group_of(address) == group
