"""Keeping this node's ads in the DHT: at the nodes nearest to their keys, every five minutes and on every change."""

from collections.abc import Awaitable, Callable

import structlog
import trio

from meshnode.errors import MeshError
from meshnode.mesh.book import RecordBook
from meshnode.mesh.lookup import Found
from meshnode.mesh.providers import Providers, keys_of
from meshnode.seams import Rng
from meshwire.ids import NodeId, to_text
from meshwire.limits import ANNOUNCE_S, DHT_ALPHA, DHT_K
from meshwire.messages import DhtStore
from meshwire.records import Record

log = structlog.get_logger("meshnode.net.announcing")
SETTLE_S = 1.0  # after a change, wait for others of its kind before announcing
JITTER = 0.1
PAUSE_MOST_S = 60.0  # between two searches for more places while there are too few


class Announcer:
    """One node's announcements.

    `look_up` finds the nodes nearest to a key, `store` asks one of them to keep a record and raises MeshError;
    `providers` is what this node keeps itself.
    """

    def __init__(
        self,
        mesh: bytes,
        book: RecordBook,
        providers: Providers,
        rng: Rng,
        *,
        look_up: Callable[[bytes], Awaitable[Found]],
        store: Callable[[NodeId, DhtStore], Awaitable[object]],
    ) -> None:
        self._mesh = mesh
        self._book = book
        self._providers = providers
        self._rng = rng
        self._look_up = look_up
        self._store = store
        self._stored: dict[tuple[NodeId, bytes, str], tuple[int, float]] = {}
        self._changed = trio.Event()
        self._places = 0
        self._pause_s = SETTLE_S
        self._waiting = trio.CancelScope()

    def changed(self) -> None:
        """This node's ads have changed: announce them now."""
        self._changed.set()

    @property
    def wants_places(self) -> bool:
        """Whether fewer nodes were found than a record should be kept by."""
        return self._places < DHT_K

    def search_soon(self) -> None:
        """There may be more places now: look for them, the later the oftener that was done."""
        self._waiting.deadline = min(self._waiting.deadline, trio.current_time() + self._pause_s)

    async def announce(self) -> None:
        """Store every one of this node's ads with the nodes nearest to its keys, and here."""
        now = trio.current_time()
        self._stored = {
            slot: known for slot, known in self._stored.items() if now - known[1] < ANNOUNCE_S / 2
        }
        for key, record in self._own():
            self._providers.put(key, record, trio.current_time())
            found = await self._look_up(key)
            self._places = len(found.closest)
            async with trio.open_nursery() as nursery:
                limiter = trio.CapacityLimiter(DHT_ALPHA)
                for node in found.closest:
                    if self._stored.get((node, key, record.name), (0, 0.0))[0] != record.seq:
                        nursery.start_soon(self._store_at, node, key, record, limiter)

    async def introduce(self, node: NodeId) -> None:
        """Store every ad with one node that may be among the nearest."""
        limiter = trio.CapacityLimiter(1)
        for key, record in self._own():
            await self._store_at(node, key, record, limiter)

    async def until_next_round(self) -> None:
        """Wait for the next time to announce."""
        wait_s = ANNOUNCE_S * (1 - JITTER * self._rng.random())
        since = trio.current_time()
        with trio.CancelScope(deadline=since + wait_s) as self._waiting:
            await self._changed.wait()
            await trio.sleep(SETTLE_S)
        waited_s = trio.current_time() - since
        self._pause_s = SETTLE_S if waited_s > PAUSE_MOST_S else min(2 * self._pause_s, PAUSE_MOST_S)
        self._changed = trio.Event()

    def _own(self) -> list[tuple[bytes, Record]]:
        """Every ad of this node with each of its keys."""
        return [
            (key, record) for record in self._book.of(self._book.own) for key in keys_of(self._mesh, record)
        ]

    async def _store_at(
        self, node: NodeId, key: bytes, record: Record, limiter: trio.CapacityLimiter
    ) -> None:
        async with limiter:
            try:
                await self._store(node, DhtStore(key, record.raw))
            except MeshError as error:
                log.debug("dht.not_stored", peer=to_text(node), error=str(error))
            else:
                self._stored[node, key, record.name] = (record.seq, trio.current_time())
