"""One file from many nodes at once: lanes to each, every chunk verified as it comes, liars found and left out.

Which chunk is asked of whom is decided in `mesh.chunks`; what a lane is made of is the network's, handed in.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio

from meshnode.errors import (
    Busy,
    DownloadFailed,
    MeshError,
    ModelFileInvalid,
    ModelNotFound,
    NotAllowed,
    Unreachable,
)
from meshnode.mesh.chunks import ChunkList, Sharing, preferred
from meshnode.models.digest import Hashing
from meshnode.models.download import Fetched
from meshnode.models.partial import Partial
from meshnode.models.sources.base import Work
from meshnode.models.store import Part
from meshnode.models.supplier import Lane, Offered, Supplier
from meshwire.limits import BLOB_PEERS, BLOB_STREAMS_PER_KEY

log = structlog.get_logger("meshnode.models")
TRIES = 6  # in a row that bring nothing; the pause before each is twice the one before
BUSY_TRIES = 60
PAUSE_S = 1.0
DAMAGES_MAX = 2  # of the disk under one pull
PROMISES_S = 3.0  # after the first promise, how long those of others are waited for
LOOK_EVERY_S = 5.0  # for nodes that have come to have the file, too


@dataclass(eq=False)
class _Peer:
    """One supplier and what came of it. `problem` says why it is not asked any more; `wrong` that it is to blame."""

    supplier: Supplier
    promise: ChunkList | None = None
    given_bytes: int = 0
    problem: str = ""
    wrong: bool = False
    failure: MeshError | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def id(self) -> str:
        return self.supplier.id

    @property
    def usable(self) -> bool:
        return not self.problem


class Gathering:
    """One pull of the file with this digest. `suppliers` gives who advertises it, at any time."""

    def __init__(self, digest: bytes, suppliers: Callable[[], Sequence[Supplier]], work: Work) -> None:
        self._digest = digest
        self._suppliers = suppliers
        self._work = work
        self._partial = Partial(work.place.directory)
        self._peers: dict[str, _Peer] = {}
        self._sharing: Sharing | None = None
        self._getting: dict[int, list[trio.CancelScope]] = {}
        self._damages = 0
        self._news = trio.Event()

    def parts(self) -> tuple[Part, ...]:
        """Who gave how much, and what was wrong with those that were left out."""
        return tuple(
            Part(peer.supplier.name, peer.given_bytes, peer.problem, peer.wrong)
            for peer in self._peers.values()
        )

    async def run(self) -> Fetched:
        """Fetch it. Raises what keeps all of them from giving it, or DownloadFailed; what came is kept."""
        failure: MeshError | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._look(nursery)
                nursery.start_soon(self._keep_looking, nursery)
                try:
                    await self._first_promises()
                    while not await self._complete():
                        pass
                except MeshError as error:
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            self._partial.close()
        if failure is not None:
            raise failure
        return Fetched(self._partial.path, self._digest)

    # --- The course of it ---

    async def _keep_looking(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self._look(nursery)

    def _look(self, nursery: trio.Nursery) -> None:
        """A task for each node that advertises the file, also for those that come while it runs."""
        for supplier in self._suppliers():
            in_use = sum(peer.usable for peer in self._peers.values())
            if supplier.id not in self._peers and in_use < BLOB_PEERS:
                peer = self._peers[supplier.id] = _Peer(supplier)
                nursery.start_soon(self._supply, peer)
        self._tell()

    async def _first_promises(self) -> None:
        """Wait for somebody's promise, and then a while for everybody's."""
        self._work.meter.begin("asking", 0, 0)
        await self._until(lambda: bool(self._promises()))
        with trio.move_on_after(PROMISES_S):
            await self._until(lambda: all(peer.promise for peer in self._peers.values() if peer.usable))

    async def _complete(self) -> bool:
        """Follow one list to its end; whether that made the file. If not, there is another to follow, or an error."""
        wanted = preferred(self._promises())
        if wanted is None:
            await self._until(lambda: bool(self._promises()))
            return False
        with trio.CancelScope(shield=True):
            held = await self._work.blocking(lambda: self._partial.follow(wanted))
        self._sharing = Sharing(wanted, held)
        self._work.meter.begin("fetching", self._held_bytes(), wanted.size_bytes)
        self._tell()
        sharing = self._sharing
        await self._until(lambda: sharing.done or self._stuck(sharing))
        if not sharing.done:
            return False
        return await self._judge(sharing)

    def _stuck(self, sharing: Sharing) -> bool:
        """Whether nobody who is left promises what is still missing."""
        usable = [peer for peer in self._peers.values() if peer.usable]
        waiting = any(peer.promise is None for peer in usable)
        promises = [peer.promise for peer in usable if peer.promise is not None]
        return not waiting and bool(promises) and sharing.hopeless(promises)

    async def _judge(self, sharing: Sharing) -> bool:
        """Look at the whole file: its digest decides whose list was right."""
        if await self._whole_digest(sharing.wanted.size_bytes) == self._digest:
            for peer in self._peers.values():
                if peer.promise is not None and peer.promise != sharing.wanted and not peer.wrong:
                    self._blame(peer, "it promised chunks that are not this file's")
            return True
        if await self._disk_was_sound(sharing):
            self._sharing = None
            for peer in self._peers.values():
                if peer.promise == sharing.wanted and not peer.wrong:
                    self._blame(peer, "what it promised, and gave, is another file")
        return False

    async def _whole_digest(self, size_bytes: int) -> bytes:
        self._work.meter.begin("checking", 0, size_bytes)
        with self._partial.path.open("rb") as file:
            hashing = Hashing(file)
            while await self._work.blocking(hashing.step):
                self._work.meter.at(hashing.done_bytes, size_bytes)
        return hashing.digest()

    async def _disk_was_sound(self, sharing: Sharing) -> bool:
        """Whether all that was marked as held is as it came; if not, that is nobody's fault but the disk's."""
        bad = 0
        for index in range(sharing.wanted.chunks):
            with trio.CancelScope(shield=True):
                bad += not await self._work.blocking(lambda index=index: self._partial.recheck(index))  # type: ignore[misc]
            await trio.lowlevel.checkpoint_if_cancelled()
        if bad:
            log.warning("chunks on the disk are damaged", chunks=bad)
            self._damages += 1
        if self._damages > DAMAGES_MAX:
            raise DownloadFailed(
                f"The disk does not keep what is written to {self._partial.path}.",
                hint="Check the disk, or set XDG_CACHE_HOME to another one.",
            )
        return not bad

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait for it; raises when nobody is left who could bring it about."""
        while not holds():
            if self._peers and not any(peer.usable for peer in self._peers.values()):
                raise self._nobody_left()
            if not self._peers:
                raise ModelNotFound("No node of the mesh offers that file any more.")
            await self._news.wait()

    def _nobody_left(self) -> MeshError:
        peers = list(self._peers.values())
        told = "; ".join(f"{peer.supplier.name}: {peer.problem}" for peer in peers)
        if all(peer.wrong for peer in peers):
            return ModelFileInvalid(
                f"No node gives the file that it advertises ({told}).", hint="Get it from another source."
            )
        kept = f"{self._held_bytes() / 1e6:.0f} MB are kept; run it again to go on from there."
        refused = [peer.failure for peer in peers if isinstance(peer.failure, NotAllowed)]
        if len(refused) == len(peers):
            return NotAllowed(
                f"Every node that has it refuses ({told}).",
                hint="The owner of one of them can allow it with the setting share_models.",
            )
        return DownloadFailed(f"No node is left that gives the file ({told}).", hint=kept)

    def _promises(self) -> dict[str, ChunkList]:
        return {peer.id: peer.promise for peer in self._peers.values() if peer.usable and peer.promise}

    def _held_bytes(self) -> int:
        return self._sharing.held_bytes if self._sharing is not None else 0

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # --- One peer ---

    async def _supply(self, peer: _Peer) -> None:
        """Ask one peer for as long as it is of use; what passes by itself is waited out."""
        vain = 0
        while peer.usable:
            before = peer.given_bytes
            try:
                with trio.CancelScope() as peer.scope:
                    await self._serve(peer)
            except (NotAllowed, ModelNotFound) as error:
                self._drop(peer, error)
            except MeshError as error:
                vain = 0 if peer.given_bytes > before else vain + 1
                if vain >= (BUSY_TRIES if isinstance(error, Busy) else TRIES):
                    self._drop(peer, error)
                else:
                    await trio.sleep(error.retry_after_s or PAUSE_S * 2 ** max(0, vain - 1))
        self._tell()

    async def _serve(self, peer: _Peer) -> None:
        """Ask for its promise, and for chunks over as many lanes as it allows. Raises what ends the first lane."""
        failure: MeshError | None = None
        async with trio.open_nursery() as nursery:
            try:
                async with self._lane(peer) as lane:
                    if peer.promise is None:
                        self._promised(peer, await lane.ask(self._digest))
                    else:
                        await lane.ask(self._digest, brief=True)
                    for _ in range(BLOB_STREAMS_PER_KEY - 1):
                        nursery.start_soon(self._more, peer)
                    await self._fetch(peer, lane)
                await self._again(peer)
            except MeshError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _more(self, peer: _Peer) -> None:
        """One lane more; if it breaks the first one does too, or goes on alone."""
        try:
            await self._again(peer)
        except MeshError as error:
            log.debug("a lane ended", peer=peer.supplier.name, why=str(error))

    async def _again(self, peer: _Peer) -> None:
        """Lane after lane: one that is given up in the middle of a chunk is of no more use."""
        while True:
            await self._work_for(peer)
            async with self._lane(peer) as lane:
                await lane.ask(self._digest, brief=True)
                await self._fetch(peer, lane)

    @asynccontextmanager
    async def _lane(self, peer: _Peer) -> AsyncIterator[Lane]:
        lane = await peer.supplier.open()
        try:
            yield lane
        finally:
            lane.close()

    def _promised(self, peer: _Peer, offer: Offered) -> None:
        promise = ChunkList(offer.size_bytes, offer.chunk_bytes, offer.hashes)
        if not promise.sound:
            self._blame(peer, "its figures do not fit each other")
            raise Unreachable(peer.problem)
        peer.promise = promise
        self._tell()

    async def _work_for(self, peer: _Peer) -> None:
        """Wait until there may be something to ask it for."""
        while (
            self._sharing is None or peer.promise is None or not self._sharing.has_work(peer.id, peer.promise)
        ):
            await self._news.wait()

    async def _fetch(self, peer: _Peer, lane: Lane) -> None:
        """Chunk after chunk; returns when the lane was given up because another peer was faster."""
        while True:
            await self._work_for(peer)
            sharing, promise = self._sharing, peer.promise
            assert sharing is not None
            assert promise is not None
            index = sharing.next(peer.id, promise, trio.current_time())
            if index is None:
                continue
            try:
                chunk = await self._get(lane, index, promise.span(index)[1])
                if chunk is None:
                    return
                await self._take(peer, sharing, index, chunk)
            finally:
                sharing.failed(peer.id, index)  # does nothing for what has come
                self._tell()

    async def _get(self, lane: Lane, index: int, size_bytes: int) -> bytes | None:
        """A chunk, or None if another peer brought it first."""
        with trio.CancelScope() as scope:
            scopes = self._getting.setdefault(index, [])
            scopes.append(scope)
            try:
                return await lane.get(index, size_bytes)
            finally:
                scopes.remove(scope)
                if not scopes:
                    self._getting.pop(index, None)
        return None

    async def _take(self, peer: _Peer, sharing: Sharing, index: int, chunk: bytes) -> None:
        """Verify and keep what came. A list may have been given up meanwhile, and another be followed."""
        if sharing is not self._sharing or index in sharing.held:
            return
        with trio.CancelScope(shield=True):
            right = await self._work.blocking(lambda: self._partial.put(index, chunk))
        if not right:
            self._blame(peer, f"it sent a chunk (number {index}) that is not the one it promised")
            raise Unreachable(peer.problem)
        if index not in sharing.held:
            peer.given_bytes += len(chunk)
        sharing.came(index)
        for scope in self._getting.get(index, ()):
            scope.cancel()
        self._work.meter.peers = sum(bool(one.usable and one.given_bytes) for one in self._peers.values())
        self._work.meter.at(self._held_bytes(), sharing.wanted.size_bytes)

    def _drop(self, peer: _Peer, error: MeshError) -> None:
        if peer.usable:
            peer.problem, peer.failure = str(error), error
            log.info("a node gives no weights", peer=peer.supplier.name, why=error.message)
        self._tell()

    def _blame(self, peer: _Peer, why: str) -> None:
        peer.problem, peer.wrong = why, True
        log.warning("a node gives wrong weights", peer=peer.supplier.name, why=why, digest=self._digest.hex())
        peer.scope.cancel()
        self._tell()
