"""Relays: a circuit is a stream spliced through the nodes of its route, and a transport for a sealed session.

A relay sees the route, sizes and times of what it carries; the session inside is sealed end to end. Source
routes are checked at every hop: each hop is named once, this node is where the route says, and the circuit came
over the link it should have come over. A relay decides nothing and retries nothing.
"""

from collections import OrderedDict
from collections.abc import Callable

import structlog
import trio

from meshnode.errors import Busy, Unreachable
from meshnode.net.base import Hello
from meshnode.net.link import Link, Stream, StreamLost
from meshwire.codec import Joiner, split
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId, to_text
from meshwire.limits import (
    CIRCUIT_IDLE_S,
    CIRCUITS_PER_KEY,
    ROUTE_LINKS,
    SEEN_MAX,
    SEEN_S,
    TRANSPORT_MESSAGE_MAX,
)
from meshwire.messages import Open
from meshwire.numbers import ResetCode

log = structlog.get_logger("meshnode.net.relay")
DRAIN_S = 0.2  # for what came before the loss to be passed on: it may be the reason


class CircuitTransport:
    """A stream through relays, as a transport: whole messages, in order, both ways."""

    def __init__(self, stream: Stream, remote: str, hello: Hello) -> None:
        self._stream = stream
        self._joiner = Joiner(TRANSPORT_MESSAGE_MAX)
        self.remote = remote
        self.peer_hello = hello

    async def send(self, message: bytes) -> None:
        """Send one message, in parts where it is longer than a frame; raises Unreachable."""
        try:
            for part in split(message):
                await self._stream.send(part)
        except StreamLost as error:
            raise _unreachable(error) from error

    async def receive(self) -> bytes:
        """The next message; raises Unreachable once the circuit is gone."""
        try:
            while (part := await self._stream.receive()) is not None:
                if (whole := self._joiner.add(part)) is not None:
                    return whole
        except (StreamLost, RemoteWireError) as error:
            raise _unreachable(error) from error
        raise Unreachable("The circuit was closed by the other end.")

    async def aclose(self) -> None:
        """Close the circuit; the relays let go of it at once."""
        self._stream.reset(ResetCode.CANCEL)
        await trio.lowlevel.checkpoint()


def _unreachable(error: StreamLost | RemoteWireError) -> Unreachable:
    code = error.code
    if code in (ResetCode.UNREACHABLE, ResetCode.BAD_ROUTE, ResetCode.TOO_MANY, ResetCode.REFUSED):
        return Unreachable(f"A relay on the way refused the circuit ({code.name.lower()}).")
    return Unreachable("The circuit through the relay was lost.")


def called(opening: Open) -> str:
    """What a circuit is called in the logs of all nodes on its way; it tells nothing of what it carries."""
    return f"circuit {opening.request[:8].hex()}"


class RouteRefused(Exception):
    """A circuit that this relay will not carry."""

    def __init__(self, code: ResetCode, why: str) -> None:
        super().__init__(why)
        self.code = code


class Relay:
    """Carries the circuits of others over this node's direct links, within quotas."""

    def __init__(
        self,
        node: bytes,
        direct: Callable[[NodeId], Link | None],
        carries_to: Callable[[NodeId], bool],
        tap: Callable[[bytes], None] | None = None,
    ) -> None:
        self._node = node
        self._direct = direct
        self._carries_to = carries_to
        self._tap = tap
        self._carried: dict[bytes, int] = {}
        self._seen: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()

    async def carry(self, link: Link, stream: Stream, opening: Open) -> None:
        """Splice a stream to the next hop until either side ends it."""
        try:
            onward_link = self._next(link, opening)
        except RouteRefused as refusal:
            log.info("circuit refused", origin=to_text(opening.origin), why=str(refusal))
            stream.reset(refusal.code)
            return
        self._carried[link.node] = self._carried.get(link.node, 0) + 1
        origin, onward = to_text(opening.origin), onward_link.name
        log.info("circuit carried", way=called(opening), origin=origin, onward=onward)
        try:
            await self._splice(stream, onward_link, opening)
        finally:
            self._forget(link.node)
            log.info("circuit let go", way=called(opening), origin=origin, onward=onward)

    def _forget(self, node: bytes) -> None:
        self._carried[node] -= 1
        if not self._carried[node]:
            del self._carried[node]

    def _next(self, link: Link, opening: Open) -> Link:
        """The link to the next hop; raises RouteRefused."""
        check_place(self._node, link.node, opening)
        if self._carried.get(link.node, 0) >= CIRCUITS_PER_KEY:
            raise RouteRefused(ResetCode.TOO_MANY, "the peer has as many circuits as it may")
        if self._already_seen((opening.origin, opening.request)):
            raise RouteRefused(ResetCode.BAD_ROUTE, "the circuit came here before")
        following = NodeId(opening.route[opening.position + 1])
        onward = self._direct(following)
        if onward is None:
            raise RouteRefused(ResetCode.UNREACHABLE, "no link to the next hop")
        if not self._carries_to(following):
            raise RouteRefused(ResetCode.REFUSED, "the next hop has not reserved this relay, or it is none")
        return onward

    def _already_seen(self, circuit: tuple[bytes, bytes]) -> bool:
        """Whether this circuit was opened here within the last SEEN_S, remembering it if not."""
        now = trio.current_time()
        while self._seen and (len(self._seen) > SEEN_MAX or next(iter(self._seen.values())) < now - SEEN_S):
            self._seen.popitem(last=False)
        if circuit in self._seen:
            return True
        self._seen[circuit] = now
        return False

    async def _splice(self, stream: Stream, onward_link: Link, opening: Open) -> None:
        onward_opening = Open(
            opening.kind,
            opening.route,
            opening.position + 1,
            opening.request,
            opening.remaining_ms,
            opening.origin,
        )
        try:
            onward = await onward_link.open(onward_opening)
        except Unreachable:
            stream.reset(ResetCode.UNREACHABLE)
            return
        except Busy:
            stream.reset(ResetCode.TOO_MANY)
            return
        idle = IdleScope()
        try:
            with idle.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_when_lost, stream, nursery.cancel_scope)
                    nursery.start_soon(_cancel_when_lost, onward, nursery.cancel_scope)
                    nursery.start_soon(self._pump, stream, onward, idle, nursery.cancel_scope)
                    nursery.start_soon(self._pump, onward, stream, idle, nursery.cancel_scope)
        finally:
            stream.reset(ResetCode.CANCEL)
            onward.reset(ResetCode.CANCEL)

    async def _pump(
        self, source: Stream, sink: Stream, idle: "IdleScope", both_ways: trio.CancelScope
    ) -> None:
        """Carry payloads one way under both streams' credit; the end of one way is the end of both."""
        try:
            while (payload := await source.receive()) is not None:
                idle.postpone()
                if self._tap:
                    self._tap(payload)
                await sink.send(payload)
        except StreamLost as error:
            sink.reset(error.code)
            source.reset(error.code)
        both_ways.cancel()


async def _cancel_when_lost(stream: Stream, both_ways: trio.CancelScope) -> None:
    """End both ways soon after one end is lost: a pump that waits for the other's credit does not see it."""
    await stream.lost()
    await trio.sleep(DRAIN_S)
    both_ways.cancel()


class IdleScope:
    """A cancel scope that ends when nothing has moved for CIRCUIT_IDLE_S."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.postpone()

    def postpone(self) -> None:
        """Something moved."""
        self.scope.deadline = trio.current_time() + CIRCUIT_IDLE_S


def check_place(node: bytes, came_from: bytes, opening: Open) -> None:
    """Whether this node stands where the route says; raises RouteRefused.

    `route` names the far ends of the links in order; the origin stands before its first.
    """
    route, position = opening.route, opening.position
    hops = (opening.origin, *route)
    if not 1 <= len(route) <= ROUTE_LINKS or position >= len(route) or route[position] != node:
        raise RouteRefused(ResetCode.BAD_ROUTE, "the route does not lead through here")
    if len(dict.fromkeys(hops)) != len(hops):
        raise RouteRefused(ResetCode.BAD_ROUTE, "the route names a node twice")
    if hops[position] != came_from:
        raise RouteRefused(ResetCode.BAD_ROUTE, "the circuit came from another node than the route says")
