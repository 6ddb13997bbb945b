"""Join targets, and trying the addresses of a ticket one after the other."""

import random
from collections.abc import Callable

import msgspec
import pytest
import trio
import trio.testing

from meshnode.control.join import NEXT_ADDRESS_S, OpenTarget, check_fresh, join_with, parse_target
from meshnode.errors import (
    MeshError,
    TicketExpired,
    TicketInvalid,
    TicketUsed,
    Unreachable,
    WrongMesh,
    WrongProtocol,
)
from meshnode.identity import create
from meshnode.net.membership import JoinLink
from meshnode.trust.certificates import issue_member
from meshnode.trust.membership import found_closed
from meshnode.trust.tickets import Ticket, to_text
from meshwire.messages import Join, Joined
from meshwire.numbers import Message
from meshwire.signing import Signer

RNG = random.Random(5)
NOW = 1_700_000_000_000
MINUTE = 60_000
ROOT = Signer(b"\x01" * 32)
ISSUER, JOINER = create(RNG.randbytes), create(RNG.randbytes)
MESH = found_closed(ROOT, ISSUER, name="home", node_name="desk", serial=b"12345678", now_ms=NOW)
TICKET = Ticket(ROOT.public, ISSUER.key, ("ws://a:1", "ws://b:1"), b"s" * 16, NOW + MINUTE, "home")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, trio.abc.Clock]]:
    """Virtual time: nothing here waits for real."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class FakeLink:
    """A link to an issuer that certifies at once, or answers with an error."""

    key = ISSUER.key
    chain = MESH.chain
    handshake_hash = b"h" * 32
    joining = True

    def __init__(self, error: MeshError | None = None) -> None:
        self.error = error

    async def request(self, message: Message, timeout_s: float = 3.0) -> Message:
        assert timeout_s > 0
        assert isinstance(message, Join)
        if self.error is not None:
            raise self.error
        record = issue_member(
            ISSUER.signer,
            mesh=MESH.id,
            key=message.key,
            name=message.name,
            serial=b"87654321",
            seq=1,
            issued_ms=NOW,
            labels=(),
        )
        return Joined((record.raw, *MESH.chain))


class Network:
    """Addresses and what is found there; None is silence."""

    def __init__(self, **places: JoinLink | MeshError | None) -> None:
        self.places = {f"ws://{name}:1": place for name, place in places.items()}
        self.began = trio.current_time()
        self.dialled: list[str] = []

    async def dial(self, address: str) -> JoinLink:
        self.dialled.append(address)
        place = self.places[address]
        if isinstance(place, MeshError):
            raise place
        if place is None:
            await trio.sleep_forever()
            raise AssertionError("for ever is over")
        return place


async def join(network: Network, ticket: Ticket = TICKET, now_ms: int = NOW) -> str:
    mesh = await join_with(ticket, JOINER, network.dial, name="laptop", now_ms=now_ms)
    assert mesh.id == MESH.id
    assert mesh.role == "member"
    return mesh.name


async def test_the_first_address_that_answers_will_do() -> None:
    network = Network(a=Unreachable("nobody there"), b=FakeLink())
    assert await join(network) == "home"
    assert network.dialled == ["ws://a:1", "ws://b:1"]


async def test_a_link_that_breaks_in_the_middle_is_tried_elsewhere() -> None:
    assert await join(Network(a=FakeLink(Unreachable("broke off")), b=FakeLink())) == "home"


async def test_a_refusal_by_the_issuer_is_final() -> None:
    network = Network(a=FakeLink(TicketUsed("used", hint="ask again")), b=FakeLink())
    with pytest.raises(TicketUsed):
        await join(network)
    assert network.dialled == ["ws://a:1"]


async def test_a_silent_address_does_not_hold_up_the_next() -> None:
    network = Network(a=None, b=FakeLink())
    assert await join(network) == "home"
    assert trio.current_time() - network.began == pytest.approx(NEXT_ADDRESS_S)


async def test_a_member_that_proves_nothing_is_passed_over() -> None:
    stranger = FakeLink()
    stranger.key = JOINER.key
    assert await join(Network(a=stranger, b=FakeLink())) == "home"


async def test_when_nobody_answers_every_reason_is_told() -> None:
    network = Network(a=Unreachable("no route."), b=Unreachable("refused"))
    with pytest.raises(Unreachable, match=r"ws://a:1: no route; ws://b:1: refused.*same network") as caught:
        await join(network)
    assert type(caught.value) is Unreachable


@pytest.mark.parametrize("kind", [WrongMesh, WrongProtocol])
async def test_the_most_telling_reason_gives_the_type(kind: Callable[[str], MeshError]) -> None:
    with pytest.raises(MeshError) as caught:
        await join(Network(a=Unreachable("no route"), b=kind("something else")))
    assert type(caught.value) is kind


async def test_a_ticket_without_addresses() -> None:
    with pytest.raises(Unreachable, match="names none"):
        await join(Network(), msgspec.structs.replace(TICKET, addresses=()))


async def test_an_old_ticket_is_not_even_tried() -> None:
    network = Network(a=FakeLink())
    with pytest.raises(TicketExpired, match=r"meshnode invite.*clock is wrong"):
        await join(network, now_ms=NOW + 12 * MINUTE)
    assert network.dialled == []


def test_a_ticket_just_over_is_for_the_issuer_to_judge() -> None:
    check_fresh(TICKET, NOW + 11 * MINUTE)


def test_targets() -> None:
    assert parse_target(f"  {to_text(TICKET)}\n") == TICKET
    assert parse_target(to_text(TICKET).upper()) == TICKET
    for address in ("ws://192.168.1.20:8421", "wss://mesh.example:443", "ws://[::1]:8421", "mem://a"):
        assert parse_target(address) == OpenTarget(address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "hello",
        "192.168.1.20:8421",
        "mesh1broken",
        "http://host:1",
        "ws://",
        "ws://host:99999",
        "ws://host:0",
        "ws://[::1",
        "x" * 5000,
    ],
)
def test_anything_else_says_what_to_do(text: str) -> None:
    with pytest.raises(TicketInvalid) as caught:
        parse_target(text)
    assert "meshnode invite" in caught.value.hint or "ws://HOST:PORT" in caught.value.hint
    assert len(caught.value.message) < 200
