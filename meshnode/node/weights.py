"""Model files between nodes: ties the store to the links, for what this node gives and for what it fetches."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from meshnode.config import Config
from meshnode.errors import MeshError, ModelNotFound, NotAllowed, Unreachable
from meshnode.mesh.holders import Holding, find_holding
from meshnode.models.share import Library
from meshnode.models.signed import keep
from meshnode.models.sources.mesh import MeshSource
from meshnode.models.sources.naming import MESH
from meshnode.models.store import ModelStore, StoredModel
from meshnode.net.blobs import BlobLane, BlobServer, open_lane
from meshnode.net.link import Link, Stream
from meshnode.net.pace import Pace
from meshnode.node.presence import Presence
from meshnode.seams import Seams
from meshnode.terms import Trust
from meshnode.trust.weights import Statement
from meshwire.ids import NodeId, to_text
from meshwire.messages import Open

ID_CHARACTERS = 8


class Weights:
    """What this node gives of its models, and how it gets those of others. `live()`: people wait for answers here."""

    def __init__(
        self,
        config: Config,
        store: ModelStore,
        seams: Seams,
        present: Callable[[], Awaitable[Presence]],
        live: Callable[[], bool],
    ) -> None:
        self._store = store
        self._seams = seams
        self._present = present
        self._share = config.share_models
        self._inward = Pace(0, live)
        self._library = Library(store, seams.blocking, self._check)
        self._server = BlobServer(self._library, Pace(config.share_kb_per_s * 1024, live))
        self._presence: Presence | None = None

    # --- Giving ---

    async def serve(self, link: Link, stream: Stream, opening: Open) -> None:
        """A stream on which another node asks for weights."""
        self._presence = await self._present()
        await self._server.serve(link, stream, opening)

    def _check(self, key: bytes) -> None:
        """Raise NotAllowed unless the owner lets the node with this key have model files."""
        assert self._presence is not None
        share = self._share
        if share == "auto":
            share = "nobody" if self._presence.mesh.is_open else "members"
        needed = {"nobody": Trust.SELF, "trusted": Trust.TRUSTED, "members": Trust.MEMBER}[share]
        if self._presence.members.trust(key) < needed:
            whom = {"nobody": "nobody", "trusted": "trusted nodes only", "members": "members only"}[share]
            raise NotAllowed(f"It gives its model files to {whom}.", hint="Its owner sets share_models.")

    # --- Fetching ---

    async def pulled(
        self, fetch: Callable[..., Awaitable[StoredModel]], source: str, *given: Any, **options: Any
    ) -> StoredModel:
        """What `fetch` brings from a source, which may be one of the mesh; who signed that comes along."""
        if not source.startswith(MESH):
            return await fetch(source, *given, **options)
        wanted = source.removeprefix(MESH)
        finding = MeshSource(lambda: self._find(wanted))
        model = await fetch(finding, *given, **options)
        if isinstance(finding.found, Found):
            await self._keep_statement(finding.found.holding, model)
        return msgspec.structs.replace(model, parts=finding.parts)

    async def _find(self, wanted: str) -> "Found":
        presence = await self._present()
        try:
            holding = find_holding(presence.view(), wanted)
        except ModelNotFound:
            await presence.dht.find_providers(wanted.partition(":")[0])
            holding = find_holding(presence.view(), wanted)
        return Found(holding, wanted, self._present, self._inward, presence)

    async def _keep_statement(self, holding: Holding, model: StoredModel) -> None:
        """Who signed it, as the ads say; what they say was verified when they were read."""
        ad = holding.ad
        if ad.signer and ad.digest == model.digest:
            statement = Statement(ad.signer, ad.digest, ad.signed_at_ms, ad.signature)
            await self._seams.blocking(lambda: keep(self._store, statement))


class Found:
    """A file that was found in the mesh."""

    def __init__(
        self,
        holding: Holding,
        wanted: str,
        present: Callable[[], Awaitable[Presence]],
        pace: Pace,
        presence: Presence,
    ) -> None:
        self.holding = holding
        self.digest = holding.ad.digest
        self.name = holding.ad.model if holding.named else ""
        self.source = MESH + holding.source
        self._present = present
        self._pace = pace
        self._presence = presence

    def suppliers(self) -> "list[MeshSupplier]":
        """Those that advertise the file now."""
        try:
            nodes = find_holding(self._presence.view(), f"sha256:{self.digest.hex()}").nodes
        except ModelNotFound:
            nodes = ()
        return [MeshSupplier(node, self._presence, self._pace) for node in nodes]


class MeshSupplier:
    """A node that advertises a file."""

    def __init__(self, node: NodeId, presence: Presence, pace: Pace) -> None:
        self.id = to_text(node)
        peer = presence.view().get(node)
        short = self.id[:ID_CHARACTERS]
        self.name = f"{peer.name}#{short}" if peer is not None and peer.name else short
        self._node = node
        self._presence = presence
        self._pace = pace

    async def open(self) -> BlobLane:
        """A stream on a direct link to it, dialled if there is none; raises MeshError."""
        return await open_lane(await self._link(), self.name, self._pace)

    async def _link(self) -> Link:
        switch = self._presence.switch
        if (link := switch.direct(self._node)) is not None and not link.in_doubt(1.0):
            return link
        peer = self._presence.view().get(self._node)
        failure: MeshError = Unreachable("There is no link to it, and it has no address to dial.")
        for address in peer.ad.addresses if peer is not None and peer.ad is not None else ():
            try:
                return await switch.dial(address, self._node)
            except MeshError as error:
                failure = error
        raise failure
