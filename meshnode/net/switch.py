"""The switch: every link of this node by the other end's NodeId, dialled, accepted or laid through relays.

It opens links and hands their traffic to the functions it was given; it decides neither routes nor membership
(`judge` does that) and keeps nothing of what passes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from meshnode.errors import Busy, MeshError, Unreachable
from meshnode.identity import Identity
from meshnode.net.base import Hello, Network, Transport
from meshnode.net.closing import code_of
from meshnode.net.establish import establish
from meshnode.net.link import Link, Stream
from meshnode.net.redial import keep_linked
from meshnode.seams import Seams
from meshwire.errors import CloseCode
from meshwire.events import Introduced
from meshwire.ids import NodeId, to_text
from meshwire.limits import LINKS_PER_KEY, LINKS_TOTAL
from meshwire.messages import Open
from meshwire.numbers import ERRAND, KIND_ASK, KIND_BLOB, KIND_CIRCUIT, Message, ResetCode
from meshwire.seal import PAD_BUCKET
from meshwire.session import SessionConfig, circuit_prologue, link_prologue

log = structlog.get_logger("meshnode.net.switch")
VERSION = 1
WANTED_MAX = 64
LATELY_S = 10.0  # until the neighbours of a node that is gone have said so
SURPLUS_S = 2.0
SURPLUS_LOOKS = 5
ERRAND_S = 5.0  # how long a link that was opened to ask something waits for the next question
FORSAKEN_S = 1.0  # a link in doubt for so long does not keep its node from making another


@dataclass(frozen=True, slots=True)
class Hooks:
    """Where the switch hands things up.

    `judge` decides what an introduced peer may do: True admits it, False lets it ask to join only, a
    MeshError turns it away. The others take what arrives and what changes.
    """

    judge: Callable[[Introduced], bool]
    on_request: Callable[[Link, Message], Awaitable[Message | None]]
    on_notice: Callable[[Link, Message], Awaitable[None]]
    on_ask: Callable[[Link, Stream, Open], Awaitable[None]]
    on_circuit: Callable[[Link, Stream, Open], Awaitable[None]]
    on_blob: Callable[[Link, Stream, Open], Awaitable[None]]
    on_up: Callable[[Link], None]
    on_down: Callable[[Link], None]


@dataclass(slots=True)
class Self:
    """Who this node is on this mesh: its keys, the mesh's id, its certificates now, and the world it lives in."""

    identity: Identity
    mesh: bytes
    chain: tuple[bytes, ...]
    seams: Seams

    @property
    def hello(self) -> Hello:
        """What is compared before any handshake."""
        return Hello((VERSION,), self.mesh)

    def link_session(self, *, initiator: bool, features: tuple[str, ...] = ()) -> SessionConfig:
        """What a fresh session of a direct link takes."""
        return SessionConfig(
            initiator=initiator,
            pattern="XX",
            prologue=link_prologue(VERSION, self.mesh),
            static_private=self.identity.static_private,
            ephemeral_private=self.seams.entropy(32),
            signer=self.identity.signer,
            chain=self.chain,
            features=features,
        )

    def circuit_session(
        self, origin: NodeId, worker: NodeId, remote_static: bytes | None = None
    ) -> SessionConfig:
        """What a fresh end-to-end session takes; only its initiator knows the other's key before."""
        return SessionConfig(
            initiator=remote_static is not None,
            pattern="IK",
            prologue=circuit_prologue(VERSION, self.mesh, origin, worker),
            static_private=self.identity.static_private,
            ephemeral_private=self.seams.entropy(32),
            signer=self.identity.signer,
            chain=self.chain,
            remote_static=remote_static,
            sealed=self.seams.seal_circuits,
            pad_bucket=PAD_BUCKET,
        )


class Switch:
    """All direct links of one node on one mesh. Runs while `run` runs."""

    def __init__(self, own: Self, network: Network, hooks: Hooks) -> None:
        self.own = own
        self._network = network
        self._hooks = hooks
        self._links: dict[NodeId, list[Link]] = {}
        self._errands: dict[Link, None] = {}
        self._dialling: dict[NodeId, trio.Lock] = {}
        self._lost_at: dict[NodeId, float] = {}
        self._wanted: dict[NodeId | str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self.last_failures: dict[str, MeshError] = {}

    async def run(self, address: str, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, and keep the wanted links up, until cancelled; reports the address as bound."""
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(self._network.serve, address, self.own.hello, self._accept)
            self._nursery = nursery
            task_status.started(bound)
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # --- What there is ---

    def direct(self, node: NodeId) -> Link | None:
        """The best live link to a node: one that is not in doubt, then the one with the shortest round trip."""
        links = self._links.get(node, ())
        if len(links) == 1:  # nearly always
            return links[0] if links[0].alive and not links[0].joining else None
        alive = [link for link in links if link.alive and not link.joining]
        return min(alive, key=lambda link: (link.in_doubt(), link.rtt_ms or 0.0), default=None)

    def links(self) -> list[Link]:
        """Every link to a neighbour, one or two for each."""
        return [link for links in self._links.values() for link in links]

    def every_link(self) -> list[Link]:
        """Those of errands too."""
        return [*self.links(), *self._errands]

    def rtts_ms(self) -> dict[NodeId, float | None]:
        """The round trip to each linked member, None where it is not measured yet."""
        return {link.node: link.rtt_ms for link in self.best_links()}

    def best_links(self) -> list[Link]:
        """One live link to each linked member."""
        best = [self.direct(node) for node in self._links]
        return [link for link in best if link is not None]

    def doubted(self) -> tuple[NodeId, ...]:
        """The nodes to which every link is in doubt, or was lost lately."""
        silent = tuple(link.node for link in self.best_links() if link.in_doubt())
        since = trio.current_time() - LATELY_S
        lost = (node for node, at in self._lost_at.items() if at > since and node not in self._links)
        return silent + tuple(lost)

    def last_failure(self) -> MeshError | None:
        """Why a wanted link is not up, if that is known."""
        return next(iter(self.last_failures.values()), None)

    # --- Dialling ---

    def want(self, addresses: tuple[str, ...], node: NodeId | None = None, first: Link | None = None) -> None:
        """Keep a link up to a node, or to whoever is at the addresses; a node may come to us instead.

        A wish is known by its node, else by its first address, and the first one stands until `unwant`. More
        than WANTED_MAX are not heard. `first` is a link that is there already and that nobody runs yet.
        """
        known_by = node or addresses[0]
        if self._nursery is None or known_by in self._wanted or len(self._wanted) >= WANTED_MAX:
            return
        scope = self._wanted[known_by] = trio.CancelScope()
        self._nursery.start_soon(self._keep, addresses, node, scope, first)

    def unwant(self, known_by: NodeId | str) -> None:
        """Stop dialling that node, or that address; a link that is up stays."""
        if (scope := self._wanted.pop(known_by, None)) is not None:
            scope.cancel()

    async def dial(self, address: str, node: NodeId | None = None, *, features: tuple[str, ...] = ()) -> Link:
        """Connect to an address now; the link lives on in the switch. Raises MeshError."""
        if self._nursery is None:
            raise Unreachable("The node is not on the network yet.")
        transport = await self._network.dial(address, self.own.hello)
        session = self.own.link_session(initiator=True, features=features)
        return await self._adopt(await establish(transport, session, self._judge), node, address)

    async def ask_at(self, address: str, node: NodeId) -> Link:
        """A link to a node to ask it something, dialled if there is none; no neighbours come of it.

        It closes by itself a while after the last question. Raises MeshError.
        """
        if (link := self.direct(node)) is not None:
            return link
        lock = self._dialling.setdefault(node, trio.Lock())
        try:
            async with lock:
                for link in self._errands:
                    if link.node == node and link.initiator and link.alive and not link.in_doubt():
                        return link
                return await self.dial(address, node, features=(ERRAND,))
        finally:
            if not lock.locked():
                self._dialling.pop(node, None)

    async def dial_any(self, addresses: tuple[str, ...], node: NodeId | None = None) -> Link:
        """A link to the node at the first address that answers. Raises MeshError."""
        failure: MeshError = Unreachable("There is no address to dial.")
        for address in addresses:
            try:
                return await self.dial(address, node)
            except MeshError as error:
                failure = error
        raise failure

    async def _adopt(self, link: Link, node: NodeId | None, address: str) -> Link:
        """Serve a link that this end opened; raises Unreachable if it leads to another node than wanted."""
        if self._nursery is None:
            raise Unreachable("The node is not on the network yet.")
        if link.joining or (node is not None and link.node != node):
            await link.aclose(CloseCode.PROTOCOL, "another node was expected here")
            raise Unreachable(f"At {address} there is another node than the one looked for.")
        await self._nursery.start(self._serve_link, link)
        return link

    async def _keep(
        self,
        addresses: tuple[str, ...],
        node: NodeId | None,
        scope: trio.CancelScope,
        first: Link | None,
    ) -> None:
        def note(error: MeshError) -> None:
            log.info("dial failed", address=addresses[0], why=str(error))
            self.last_failures[addresses[0]] = error

        met = node  # whoever was at a nameless address is whom to look for there

        async def dial() -> Link | None:
            nonlocal met, first
            if first is not None:
                given, first = first, None
                met = given.node
                return await self._adopt(given, node, addresses[0])
            if met is not None and self.direct(met) is not None:
                return None
            link = await self.dial_any(addresses, node)
            self.last_failures.pop(addresses[0], None)
            met = link.node
            return link

        try:
            with scope:
                await keep_linked(dial, self.own.seams.rng, note)
        finally:
            self.last_failures.pop(addresses[0], None)

    # --- Links ---

    async def _accept(self, transport: Transport) -> None:
        try:
            link = await establish(transport, self.own.link_session(initiator=False), self._judge)
        except MeshError as error:
            log.info("link refused", remote=transport.remote, why=str(error))
            return
        await self._serve_link(link)

    def _judge(self, introduced: Introduced) -> bool:
        """The node's own judgement, after the switch's bounds."""
        if self._is_full(introduced.key, errand=ERRAND in introduced.features):
            raise Busy("There are as many links as this node allows.", retry_after_s=5.0)
        return self._hooks.judge(introduced)

    def _is_full(self, key: bytes, *, errand: bool) -> bool:
        """Whether one more link of its kind to the node with this key would be one too many."""
        links = list(self._errands) if errand else self.links()
        same = [link.in_doubt(FORSAKEN_S) for link in links if link.key == key and link.alive]
        too_many = same.count(False) >= LINKS_PER_KEY or len(same) >= 2 * LINKS_PER_KEY
        return too_many or len(links) >= LINKS_TOTAL

    async def _serve_link(
        self, link: Link, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        if self._is_full(link.key, errand=link.errand):  # others came in while this one shook hands
            await link.aclose(CloseCode.TOO_MANY)
            task_status.started()
            return
        if link.errand:
            await self._run_errand(link, task_status)
            return
        link.on_open = partial(self._opened, link)
        # A node that dials although there is a link may have lost that one, as when its device was restarted.
        for older in self._links.setdefault(link.node, []):
            older.doubt()
        self._links[link.node].append(link)
        if len(self._links[link.node]) > 1 and self._nursery is not None:
            self._nursery.start_soon(self._close_surplus, link.node)
        log.info("link up", peer=link.name, remote=link.remote, joining=link.joining)
        try:
            if not link.joining:
                self._hooks.on_up(link)
            task_status.started()
            await self._run(link)
        finally:
            self._forget(link)
            log.info("link down", peer=link.name, why=str(link.error))
            self._hooks.on_down(link)

    async def _run(self, link: Link) -> None:
        try:
            await link.run(self._hooks.on_request, self._on_stream, self._hooks.on_notice)
        except* Exception:  # a fault of ours costs this link, and nothing else
            log.exception("link broke", peer=link.name)

    async def _run_errand(self, link: Link, task_status: trio.TaskStatus[None]) -> None:
        self._errands[link] = None
        try:
            async with trio.open_nursery() as nursery:
                if link.initiator:
                    nursery.start_soon(_end_errand, link)
                task_status.started()
                await self._run(link)
                nursery.cancel_scope.cancel()
        finally:
            del self._errands[link]

    async def _close_surplus(self, node: NodeId) -> None:
        """When two nodes have dialled each other, close the link that is too much, unless it is in use.

        Both ends choose the same: the one that the node with the lesser id has opened stays, then the newest.
        """
        lesser = self.own.identity.node < node
        for _ in range(SURPLUS_LOOKS):
            await trio.sleep(SURPLUS_S)
            alive = [link for link in self._links.get(node, ()) if link.alive and not link.in_doubt()]
            alive.sort(key=lambda link: link.initiator is lesser)
            for link in alive[:-1]:
                if link.initiator and not (link.busy or link.joining):
                    await link.aclose(CloseCode.DUPLICATE)
            if len(alive) <= 1:
                return

    def _opened(self, link: Link) -> None:
        """The node at the other end has just become a member."""
        try:
            self._hooks.judge(Introduced(link.key, link.chain, link.features))
        except MeshError as error:
            log.info("link refused", remote=link.remote, why=str(error))
            if self._nursery is not None:
                self._nursery.start_soon(link.aclose, code_of(error), error.message)
            return
        self._hooks.on_up(link)

    def _forget(self, link: Link) -> None:
        self._links[link.node].remove(link)
        if not self._links[link.node]:
            del self._links[link.node]
            now = trio.current_time()
            self._lost_at = {node: at for node, at in self._lost_at.items() if at > now - LATELY_S}
            self._lost_at[link.node] = now

    async def _on_stream(self, link: Link, stream: Stream, opening: Open) -> None:
        match opening.kind:
            case k if k == KIND_ASK:
                await self._hooks.on_ask(link, stream, opening)
            case k if k == KIND_CIRCUIT:
                await self._hooks.on_circuit(link, stream, opening)
            case k if k == KIND_BLOB:
                await self._hooks.on_blob(link, stream, opening)
            case _:
                log.info("stream refused", peer=to_text(link.node), kind=opening.kind)
                stream.reset(ResetCode.REFUSED)


async def _end_errand(link: Link) -> None:
    """Leave once nothing has been asked for a while."""
    while True:
        await trio.sleep_until(max(link.asked_at + ERRAND_S, trio.current_time() + 1.0))
        if trio.current_time() - link.asked_at >= ERRAND_S and not link.busy:
            await link.aclose(CloseCode.GOING_AWAY, "that was all")
            return
