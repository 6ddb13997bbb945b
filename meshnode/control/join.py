"""Joining a mesh: what the target is, and redeeming a ticket wherever one of its addresses answers.

It knows no sockets: how to reach an address is a function it is given.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

from meshnode.errors import JoinRefused, MeshError, TicketInvalid, Unreachable
from meshnode.identity import Identity
from meshnode.net.membership import JoinLink, redeem
from meshnode.trust.certificates import CLOCK_TOLERANCE_MS
from meshnode.trust.membership import Mesh, join_closed
from meshnode.trust.tickets import ASK_AGAIN, PREFIX, Ticket, expired, from_text
from meshwire.ids import mesh_id

SCHEMES = ("ws", "wss", "mem")
NEXT_ADDRESS_S = 1.0  # how long an address is waited for before the next one is asked too

Dial = Callable[[str], Awaitable[JoinLink]]
Ask = Callable[[str], Awaitable[tuple[bytes, ...]]]


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """The address of a node in an open mesh."""

    address: str


def parse_target(text: str) -> Ticket | OpenTarget:
    """What `meshnode join` was given: a ticket, or the address of an open mesh; raises TicketInvalid."""
    target = text.strip()
    if not target:
        raise TicketInvalid("There is no ticket.", hint=ASK_AGAIN)
    if "://" in target:
        return OpenTarget(_checked_address(target))
    if not target.lower().startswith(PREFIX):
        raise TicketInvalid(
            f"{target[:40]!r} is neither a ticket (`mesh1…`) nor an address (`ws://HOST:PORT`).",
            hint=ASK_AGAIN,
        )
    return from_text(target)


def mesh_of(ticket: Ticket) -> bytes:
    """The id of the mesh that a ticket is for."""
    return mesh_id(ticket.root_key)


def check_fresh(ticket: Ticket, now_ms: int) -> None:
    """Raise TicketExpired if the ticket is over by this machine's clock, whatever tolerance one allows it."""
    over_ms = now_ms - ticket.expires_ms
    if over_ms > CLOCK_TOLERANCE_MS:
        raise expired(over_ms, hint=f"{ASK_AGAIN} (Or this machine's clock is wrong.)")


async def join_with(ticket: Ticket, identity: Identity, dial: Dial, *, name: str, now_ms: int) -> Mesh:
    """The mesh that the ticket lets this node into, asking at each of its addresses until one answers.

    `dial` gives a link to the node at an address, or raises Unreachable (or WrongMesh, WrongProtocol). An
    address that is slow does not hold up the next (as in RFC 8305); asking twice does no harm, since the
    issuer gives the same key the same certificate. Raises TicketExpired, the issuer's refusal as it is, or,
    when nobody could be asked, the most telling of the reasons with all of them in its message.
    """
    check_fresh(ticket, now_ms)

    async def ask(address: str) -> tuple[bytes, ...]:
        return await redeem(await dial(address), ticket, identity, name=name, now_ms=now_ms)

    chain = await _first(ticket.addresses, ask)
    return join_closed(ticket.root_key, chain, identity.key, name=ticket.mesh_name, now_ms=now_ms)


async def _first(addresses: tuple[str, ...], ask: Ask) -> tuple[bytes, ...]:
    """The first chain that `ask` brings from an address; raises the first JoinRefused, or all failures."""
    chains: list[tuple[bytes, ...]] = []
    refusals: list[JoinRefused] = []
    failures: dict[str, MeshError] = {}

    async def attempt(address: str, ended: trio.Event) -> None:
        try:
            chains.append(await ask(address))
            nursery.cancel_scope.cancel()
        except JoinRefused as refusal:
            refusals.append(refusal)
            nursery.cancel_scope.cancel()
        except MeshError as error:
            failures[address] = error
        ended.set()

    async with trio.open_nursery() as nursery:
        for address in addresses:
            ended = trio.Event()
            nursery.start_soon(attempt, address, ended)
            with trio.move_on_after(NEXT_ADDRESS_S):
                await ended.wait()
    if chains:
        return chains[0]
    raise refusals[0] if refusals else _nobody(failures)


def _nobody(failures: Mapping[str, MeshError]) -> MeshError:
    reasons = "; ".join(f"{address}: {error.message.rstrip('.')}" for address, error in failures.items())
    telling = [error for error in failures.values() if type(error) is not Unreachable]
    kind = type(telling[0]) if telling else Unreachable
    return kind(
        f"No address in the ticket led to its mesh ({reasons or 'it names none'}).",
        hint="Check that the device that made the ticket is on, in the same network, and lets others in at its "
        "port (a firewall may not), then join again.",
    )


def _checked_address(target: str) -> str:
    """The address, if it has a scheme and a host that can be dialled."""
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError as error:
        raise _bad_address(target) from error
    if parts.scheme not in SCHEMES or not parts.hostname or port == 0:
        raise _bad_address(target)
    return target


def _bad_address(target: str) -> TicketInvalid:
    return TicketInvalid(
        f"{target[:80]!r} is not an address of an open mesh.", hint="Write it as ws://HOST:PORT."
    )
