"""Circuits: links to nodes that are reached through relays, sealed end to end with Noise IK.

A circuit is an ordinary Link whose transport is a stream through relays. It is laid on demand, reused by
later requests, and closed when nothing has run over it for CIRCUIT_IDLE_S. Only asks, and requests to join
that a member forwards, come over a circuit.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from meshnode.errors import Busy, MeshError, NotAllowed, Unreachable
from meshnode.net.establish import establish
from meshnode.net.link import Link, Stream
from meshnode.net.relay import CircuitTransport, Relay, RouteRefused, called, check_place
from meshnode.net.switch import Self, Switch
from meshnode.tasks import Tasks
from meshwire.errors import CloseCode, RemoteWireError
from meshwire.events import Introduced
from meshwire.ids import NodeId, to_text
from meshwire.limits import CIRCUIT_IDLE_S, LINKS_TOTAL, ROUTE_LINKS
from meshwire.messages import Join, Open
from meshwire.numbers import KIND_ASK, KIND_CIRCUIT, Message, ResetCode
from meshwire.session import SessionConfig

log = structlog.get_logger("meshnode.net.circuits")
LOOK_AGAIN_S = 10.0  # at a circuit that would be idle but for a stream that is still open


class Circuits(Tasks):
    """The circuits that begin or end at this node; those that only pass go to the relay.

    `carries_to` says whether it carries those of others to a neighbour. `approach` looks for a direct link to the
    node at the other end of a circuit, which later requests then take; it hears whether that node has laid it.
    """

    def __init__(
        self,
        own: Self,
        switch: Switch,
        *,
        static_key_of: Callable[[NodeId], bytes | None],
        carries_to: Callable[[NodeId], bool],
        approach: Callable[[NodeId, bool], Awaitable[None]],
        judge: Callable[[Introduced], bool],
        on_ask: Callable[[Link, Stream, Open], Awaitable[None]],
        on_request: Callable[[Link, Message], Awaitable[Message | None]],
    ) -> None:
        self._own = own
        self._switch = switch
        self._static_key_of = static_key_of
        self._approach = approach
        self._judge = judge
        self._on_ask = on_ask
        self._on_request = on_request
        self._relay = Relay(own.identity.node, switch.direct, carries_to, own.seams.relay_tap)
        self._laid: dict[tuple[NodeId, ...], Link] = {}
        self._laying: dict[tuple[NodeId, ...], trio.Lock] = {}
        self._used_at: dict[Link, float] = {}

    def links(self) -> list[Link]:
        """The circuits that this node has laid."""
        return list(self._laid.values())

    # --- The origin's side ---

    async def reach(self, path: tuple[NodeId, ...]) -> Link:
        """A live link along `path`: the direct one, or a circuit, laid if need be.

        Raises Unreachable, also where the other end turned us away, or Busy.
        """
        if not 1 <= len(path) <= ROUTE_LINKS:
            raise Unreachable(f"A way over {len(path)} links is none; at most {ROUTE_LINKS} are allowed.")
        if len(path) == 1:
            if (link := self._switch.direct(path[0])) is None:
                raise Unreachable(f"There is no link to {to_text(path[0])} any more.")
            return link
        async with self._laying.setdefault(path, trio.Lock()):
            try:
                if (link := self._laid.get(path)) is None or not link.alive:
                    link = await self._lay(path)
                self._used_at[link] = trio.current_time()
                return link
            finally:
                if not self._laying[path].statistics().tasks_waiting:
                    del self._laying[path]

    async def _lay(self, path: tuple[NodeId, ...]) -> Link:
        first, worker = self._switch.direct(path[0]), path[-1]
        static = self._static_key_of(worker)
        if self._nursery is None or first is None or static is None:
            raise Unreachable(f"The way to {to_text(worker)} is gone.")
        if len(self._laid) >= LINKS_TOTAL:
            raise Unreachable("This node holds as many circuits as it may.")
        opening = Open(
            KIND_CIRCUIT,
            route=path,
            request=self._own.seams.entropy(8),
            remaining_ms=int(CIRCUIT_IDLE_S * 1000),
            origin=self._own.identity.node,
        )
        stream = await first.open(opening)
        transport = CircuitTransport(stream, f"{called(opening)} via {first.name}", self._own.hello)
        session = self._own.circuit_session(self._own.identity.node, NodeId(worker), static)
        link = await self._established(transport, session, len(path))
        if link.node != worker:
            await link.aclose(CloseCode.PROTOCOL, "another node was expected here")
            raise Unreachable(f"At the end of the circuit there is another node than {to_text(worker)}.")
        self._laid[path] = link
        self._used_at[link] = trio.current_time()
        self._nursery.start_soon(self._keep, link, path)
        self._nursery.start_soon(self._approach, worker, False)
        return link

    async def _established(self, transport: CircuitTransport, session: SessionConfig, links: int) -> Link:
        """A link over a fresh circuit; whatever stands in its way makes the worker unreachable this way."""
        try:
            return await establish(transport, session, self._judge, path_links=links)
        except (Unreachable, Busy):
            raise
        except (MeshError, RemoteWireError) as error:  # a key that is none counts as the worker's fault
            raise Unreachable(f"No circuit could be laid: {error}") from error

    async def _keep(self, link: Link, path: tuple[NodeId, ...]) -> None:
        """Serve a circuit of our own until it is lost, or nothing has run over it for CIRCUIT_IDLE_S."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._close_when_idle, link)
                await self._serve(link)
                nursery.cancel_scope.cancel()
        finally:
            self._used_at.pop(link, None)
            if self._laid.get(path) is link:
                del self._laid[path]

    async def _serve(self, link: Link) -> None:
        log.info("circuit up", peer=link.name, links=link.path_links, way=link.remote)
        try:
            await link.run(self._on_circuit_request, self._on_circuit_stream, _no_notices)
        except* Exception:  # a fault of ours costs this circuit, and nothing else
            log.exception("circuit broke", peer=link.name)
        log.info("circuit down", peer=link.name, why=str(link.error))

    async def _close_when_idle(self, link: Link) -> None:
        left_s = CIRCUIT_IDLE_S
        while left_s > 0 or link.busy:
            await trio.sleep(max(left_s, LOOK_AGAIN_S))
            left_s = self._used_at[link] + CIRCUIT_IDLE_S - trio.current_time()
        await link.aclose(CloseCode.GOING_AWAY, "idle")

    # --- The relay's and the worker's side ---

    async def arrived(self, link: Link, stream: Stream, opening: Open) -> None:
        """A circuit came in: pass it on, or end it here."""
        if opening.position + 1 < len(opening.route):
            await self._relay.carry(link, stream, opening)
            return
        try:
            check_place(self._own.identity.node, link.node, opening)
            await self._end_here(stream, opening)
        except RouteRefused as refusal:
            stream.reset(refusal.code)
        except MeshError as error:
            log.info("circuit refused", origin=to_text(NodeId(opening.origin)), why=str(error))
            stream.reset(ResetCode.REFUSED)

    async def _end_here(self, stream: Stream, opening: Open) -> None:
        origin = NodeId(opening.origin)
        transport = CircuitTransport(stream, f"{called(opening)} from {to_text(origin)}", self._own.hello)
        session = self._own.circuit_session(origin, self._own.identity.node)
        link = await establish(transport, session, self._judge, path_links=len(opening.route))
        if link.node != origin:
            await link.aclose(CloseCode.PROTOCOL, "the origin is not who the route says")
            raise NotAllowed("The circuit's origin is not who its route says.")
        if self._nursery is not None:
            self._nursery.start_soon(self._approach, origin, True)
        await self._serve(link)

    async def _on_circuit_request(self, link: Link, message: Message) -> Message | None:
        if isinstance(message, Join):
            return await self._on_request(link, message)
        raise NotAllowed(f"A {type(message).__name__} does not belong on a circuit.")

    async def _on_circuit_stream(self, link: Link, stream: Stream, opening: Open) -> None:
        if opening.kind == KIND_ASK:
            await self._on_ask(link, stream, opening)
        else:
            stream.reset(ResetCode.REFUSED)  # no circuits inside circuits


async def _no_notices(_link: Link, _message: Message) -> None:
    """Gossip does not come over circuits."""
