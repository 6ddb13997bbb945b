"""The relays of a node that cannot be dialled: it asks the nearest to carry circuits to it, and renews in time."""

from collections.abc import Callable

import structlog
import trio

from meshnode.errors import MeshError
from meshnode.mesh.peers import Peers
from meshnode.mesh.relaying import wished_relays
from meshnode.net.switch import Switch
from meshwire.ids import NodeId, to_text
from meshwire.messages import Reserve, Reserved

log = structlog.get_logger("meshnode.node.leases")
LOOK_EVERY_S = 1.0
REFUSED_S = 30.0  # a relay that refused, or did not answer, is not asked again for so long


class Leases:
    """Keeps reservations at relays. `changed` hears that there is one more."""

    def __init__(self, peers: Peers, switch: Switch, changed: Callable[[], None]) -> None:
        self._peers = peers
        self._switch = switch
        self._changed = changed
        self._renew_at: dict[NodeId, float] = {}
        self._not_before: dict[NodeId, float] = {}
        self._asking: dict[NodeId, None] = {}
        self._look = trio.Event()

    async def run(self) -> None:
        """Reserve and renew until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._look = trio.Event()
                for node in self._due():
                    self._asking[node] = None
                    nursery.start_soon(self._reserve, node)
                with trio.move_on_after(LOOK_EVERY_S):
                    await self._look.wait()

    def nudge(self) -> None:
        """There is one more link: look now."""
        self._look.set()

    def named(self) -> tuple[NodeId, ...]:
        """Who carries circuits to this node now, for its record."""
        linked = self._switch.rtts_ms()
        self._renew_at = {node: at for node, at in self._renew_at.items() if node in linked}
        return tuple(self._renew_at)

    def _due(self) -> list[NodeId]:
        """Whom to ask now: the nearest who carry for others, and those whose lease is half over."""
        now, linked = trio.current_time(), self._switch.rtts_ms()
        self._not_before = {node: at for node, at in self._not_before.items() if at > now}
        willing = [node for node in linked if node not in self._not_before and self._peers.carries(node)]
        wished = wished_relays(self.named(), linked, willing)
        return [node for node in wished if node not in self._asking and self._renew_at.get(node, now) <= now]

    async def _reserve(self, node: NodeId) -> None:
        try:
            if (link := self._switch.direct(node)) is None:
                return
            reply = await link.request(Reserve())
            if isinstance(reply, Reserved):
                self._renew_at[node] = trio.current_time() + reply.lease_s / 2
                log.info("relay reserved", peer=to_text(node), lease_s=reply.lease_s)
                self._changed()
        except MeshError as error:
            log.info("relay refused", peer=to_text(node), why=str(error))
            self._renew_at.pop(node, None)
            self._not_before[node] = trio.current_time() + REFUSED_S
        finally:
            self._asking.pop(node, None)
