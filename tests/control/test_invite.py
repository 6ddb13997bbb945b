"""Making tickets, and the addresses that go into them."""

import random
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshnode.control.invite import duration_s, invite, reachable_addresses
from meshnode.errors import BadRequest, NotAllowed, Unreachable
from meshnode.identity import create
from meshnode.seams import Seams, inline
from meshnode.state.store import Store, open_store
from meshnode.trust.membership import Mesh, found_closed, found_open
from meshnode.trust.tickets import from_text, ticket_id
from meshwire.signing import Signer

RNG = random.Random(4)
NOW_S = 1_700_000_000.0
SEAMS = Seams(wall=lambda: NOW_S, rng=RNG, entropy=RNG.randbytes, blocking=inline)
IDENTITY = create(RNG.randbytes)
ROOT = Signer(b"\x01" * 32)
MESH = found_closed(
    ROOT, IDENTITY, name="home", node_name="desk", serial=b"12345678", now_ms=int(NOW_S * 1000)
)
Row = namedtuple("Row", "family address netmask")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(tmp_path, inline)
    yield opened
    await opened.aclose()


async def make(
    store: Store, mesh: Mesh = MESH, addresses: tuple[str, ...] = ("ws://a:1",), expires_s: int = 60
) -> str:
    return await invite(IDENTITY, mesh, store, SEAMS, addresses=addresses, expires_s=expires_s)


async def test_a_ticket_says_all_that_a_joiner_needs(store: Store) -> None:
    ticket = from_text(await make(store, addresses=tuple(f"ws://a:{n}" for n in range(1, 9)), expires_s=3600))
    assert (ticket.root_key, ticket.issuer, ticket.mesh_name) == (ROOT.public, IDENTITY.key, "home")
    assert ticket.addresses == ("ws://a:1", "ws://a:2", "ws://a:3", "ws://a:4")
    assert ticket.expires_ms == int(NOW_S * 1000) + 3_600_000
    row = await store.ticket(ticket_id(ticket.secret))
    assert row is not None
    assert row.labels == ("trusted",)
    assert row.redeemed_by == b""


async def test_no_two_tickets_are_alike(store: Store) -> None:
    assert await make(store) != await make(store)


async def test_who_cannot_invite_is_told_what_to_do(store: Store) -> None:
    with pytest.raises(NotAllowed, match="ws://HOST:PORT"):
        await make(store, found_open(RNG.randbytes))
    member = Mesh(MESH.id, MESH.root_key, "home", (b"mine", b"issuer"))
    with pytest.raises(NotAllowed, match="founded the mesh"):
        await make(store, member)
    with pytest.raises(Unreachable, match="--advertise"):
        await make(store, addresses=())


@pytest.mark.parametrize("expires_s", [0, 59, 31 * 24 * 3600])
async def test_expiry_is_bounded(store: Store, expires_s: int) -> None:
    with pytest.raises(BadRequest) as caught:
        await make(store, expires_s=expires_s)
    assert caught.value.param == "expires"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), (" 12H ", 43_200), ("7d", 604_800)]
)
def test_durations(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "d", "-1d", "1.5h", "1w", "1 d", "9" * 20 + "d"])
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(BadRequest, match="7d"):
        duration_s(text)


INTERFACES = {
    "lo": [Row(2, "127.0.0.1", None), Row(10, "::1", None)],
    "eth0": [
        Row(2, "203.0.113.9", None),
        Row(2, "192.168.1.20", None),
        Row(10, "2001:db8::7", None),
        Row(10, "fe80::1%eth0", None),
        Row(17, "aa:bb:cc:dd:ee:ff", None),
    ],
    "docker0": [Row(2, "172.17.0.1", None)],
    "br-4f2a": [Row(2, "172.18.0.1", None)],
    "veth12": [Row(2, "172.19.0.1", None)],
    "virbr0": [Row(2, "192.168.122.1", None)],
    "wlan0": [Row(2, "10.0.0.7", None), Row(2, "169.254.3.4", None)],
}


def found(up: list[str], host: str = "0.0.0.0") -> tuple[str, ...]:
    return reachable_addresses(INTERFACES, up=up, host=host, port=8421)


def test_home_addresses_first_and_no_containers() -> None:
    addresses = found(list(INTERFACES))
    assert addresses == ("ws://10.0.0.7:8421", "ws://192.168.1.20:8421", "ws://203.0.113.9:8421")


def test_ipv6_too_when_the_mesh_listens_on_it() -> None:
    assert found(["eth0"], host="::")[-1] == "ws://[2001:db8::7]:8421"


def test_interfaces_that_are_down_do_not_count() -> None:
    assert found(["lo", "wlan0"]) == ("ws://10.0.0.7:8421",)


def test_loopback_only_if_there_is_nothing_else() -> None:
    assert found(["lo", "docker0"]) == ("ws://127.0.0.1:8421",)
    assert found(["docker0"]) == ()


def test_a_host_that_was_chosen_is_the_only_one() -> None:
    assert found(["eth0"], host="192.168.1.20") == ("ws://192.168.1.20:8421",)
    assert found(["eth0"], host="desk.lan") == ("ws://desk.lan:8421",)
    assert found(["eth0"], host="2001:db8::7") == ("ws://[2001:db8::7]:8421",)
