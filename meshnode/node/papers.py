"""A node's papers on one mesh: certificates, revocations, and what it remembers of others' audit logs.

It keeps them over restarts, puts them back into the book, shows them to whoever links up, and obeys them: a revoked
node's links are closed and its records go; a newer certificate for this node becomes its own. What they prove is
decided in `trust` and `mesh`; what the operator signs, in `control`.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
import trio

from meshnode.control.authority import Authority
from meshnode.control.renew import renew_due
from meshnode.errors import MeshError
from meshnode.identity import Identity, load_root
from meshnode.mesh.book import Merged
from meshnode.mesh.members import Members
from meshnode.mesh.peers import Peer
from meshnode.mesh.shelf import CERTIFYING
from meshnode.mesh.witness import Witness
from meshnode.net.link import Link
from meshnode.net.switch import Self
from meshnode.seams import Seams
from meshnode.state.kept import Kept
from meshnode.state.store import Store
from meshnode.terms import ModelCard
from meshnode.trust.certificates import (
    CLOCK_TOLERANCE_MS,
    LABEL_TRUSTED,
    ROLE_ISSUER,
    certificate_of,
    issue_issuer,
)
from meshnode.trust.membership import Mesh, new_serial
from meshwire.digests import PREFIX_BYTES, pack_digest
from meshwire.errors import CloseCode, RemoteWireError
from meshwire.ids import NodeId, node_id, to_text
from meshwire.messages import GossipAck
from meshwire.records import Record, RecordType, read_record
from meshwire.signing import Signer

REVOCATIONS, CERTIFICATES, VITALS = "revocation", "certificate", "vitals"
KIND_OF = {RecordType.REVOCATION: REVOCATIONS, RecordType.CERTIFICATE: CERTIFICATES}
PER_GREETING = 40  # revocations of about 250 bytes in one message, which a control frame holds
GREETINGS_MAX = 16  # messages with revocations to who links up
LOOK_EVERY_S = 30.0  # for heads to keep
RENEW_EVERY_S = 600.0
FOR_EVER_MS = 2**62

log = structlog.get_logger("meshnode.node.papers")


@dataclass(frozen=True, slots=True)
class Ties:
    """What papers need of the rest of a presence.

    `links` gives every link, `nudge` lets gossip look at once, `on_mesh` hears of this node's own new certificate;
    `peers` are the other nodes as they are known now, `cards` the models of this one.
    """

    links: Callable[[], Iterable[Link]]
    nudge: Callable[[], None]
    on_mesh: Callable[[Mesh], None]
    peers: Callable[[], Mapping[NodeId, Peer]]
    cards: Callable[[], Mapping[str, ModelCard]]


class Papers:
    """The papers of one presence. They are obeyed while `run` runs."""

    def __init__(self, home: Path, own: Self, mesh: Mesh, members: Members, store: Store, ties: Ties) -> None:
        self.mesh = mesh
        self.witness = Witness()
        self._home = home
        self._own = own
        self._identity: Identity = own.identity
        self._members = members
        self._book = members.book
        self._store = store
        self._seams: Seams = own.seams
        self._ties = ties
        self._nursery: trio.Nursery | None = None

    # --- Over restarts ---

    async def recall(self) -> None:
        """Put into the book what was kept: this node's chain and all that it has signed, others' revocations."""
        root = await self.root()
        issuer = self.mesh.role == ROLE_ISSUER
        self._merge(reversed(self.mesh.chain), in_order=issuer)
        signed = await self._store.certificates() if issuer else []
        kept = [*await self._store.kept(CERTIFICATES), *await self._store.kept(REVOCATIONS)]
        for record in sorted(self._readable([*signed, *kept]), key=lambda one: one.seq):
            if record.owner == self._book.own:
                self._book.adopt(record, trio.current_time())
            else:
                # The root's own counter is kept where its key is; elsewhere gossip still asks for what lies between.
                ours = root is not None and record.key == root.public
                self._merge((record.raw,), in_order=ours, sender=record.owner)
        for record in self._readable(await self._store.kept(VITALS)):
            self.witness.saw(record)
        self.witness.take_unkept()
        self._take_own()
        if root is not None and not issuer:
            await self._claim(root)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what comes, and renew what is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._renew)
            task_status.started()
            try:
                while True:
                    await trio.sleep(LOOK_EVERY_S)
                    await self._keep_witnessed()
            finally:
                self._nursery = None
                with trio.CancelScope(shield=True):
                    await self._keep_witnessed()

    async def _keep_witnessed(self) -> None:
        kept = [Kept(to_text(record.owner), record.raw, FOR_EVER_MS) for record in self.witness.take_unkept()]
        if kept:
            await _unless_unusable(self._store.keep, VITALS, kept, self._seams.now_ms())

    async def _keep(self, records: Sequence[Record]) -> None:
        for kind, table in KIND_OF.items():
            kept = [_kept(record) for record in records if record.type is kind]
            if kept:
                await self._store.keep(table, kept, self._seams.now_ms())

    def _soon(self, work: Callable[..., Awaitable[object]], *given: object) -> None:
        """Do it beside everything else; a disk that is full must not end the node's life on its mesh."""
        if self._nursery is not None:
            self._nursery.start_soon(_unless_unusable, work, *given)

    def _readable(self, raws: Iterable[bytes]) -> list[Record]:
        found = []
        for raw in raws:
            with suppress(RemoteWireError):  # a disk may be damaged, and the rest still counts
                found.append(read_record(raw, self._seams.verify))
        return found

    def _merge(self, raws: Iterable[bytes], *, in_order: bool, sender: NodeId | None = None) -> Merged:
        now, wall_ms = trio.current_time(), self._seams.now_ms()
        return self._book.merge(raws, now=now, wall_ms=wall_ms, in_order=in_order, sender=sender)

    # --- What comes ---

    def learn(self, chain: tuple[bytes, ...]) -> None:
        """Take the certificates that a link showed, so that what their subjects sign can be believed."""
        self.merged(self._merge(reversed(chain), in_order=False))

    def merged(self, merged: Merged) -> None:
        """Obey what a batch of records has brought."""
        for record in merged.accepted:
            if record.type is RecordType.VITALS and not self.witness.saw(record):
                log.warning("audit log went back", peer=to_text(record.owner))
        papers = [record for record in merged.accepted if self._lasting(record)]
        if any(record.type in CERTIFYING for record in merged.accepted):
            self._take_own()
        if any(record.type is RecordType.REVOCATION for record in papers):
            self._cut_revoked()
        if papers:
            self._soon(self._keep, papers)

    def _lasting(self, record: Record) -> bool:
        """Whether a record must outlive a restart: a revocation, and what this node or the root has certified."""
        if record.type is RecordType.CERTIFICATE:
            return record.key == self.mesh.root_key or record.owner == self._book.own
        return record.type is RecordType.REVOCATION

    def _take_own(self) -> None:
        """Let the best certificate about this node be its own."""
        chain = self._members.chain_of(self._identity.key)
        if not chain or chain == self.mesh.chain or self.mesh.is_open:
            return
        self.mesh = msgspec.structs.replace(self.mesh, chain=chain)
        self._own.chain = chain
        self._ties.on_mesh(self.mesh)
        log.info("own certificate", roles=", ".join(self.mesh.roles))
        self._soon(self._store.save_mesh, self.mesh)

    def _cut_revoked(self) -> None:
        """Close the links of those who count no longer, and forget what they said of themselves."""
        for link in self._ties.links():
            if self._nursery is not None and not link.joining and not self._members.is_member(link.key):
                self._nursery.start_soon(link.aclose, CloseCode.REVOKED)
        signers = dict.fromkeys(
            record.key for _, record in self._book.all() if record.key != self.mesh.root_key
        )
        for key in [key for key in signers if not self._members.is_member(key)]:
            owner = node_id(key)
            if owner != self._book.own and not any(one.type in CERTIFYING for one in self._book.of(owner)):
                self._book.drop(owner)

    async def greet(self, link: Link) -> None:
        """Tell who links up of the revocations that gossip's rounds would not: those kept from before a restart."""
        loose = [
            record
            for owner, record in self._book.all(RecordType.REVOCATION)
            if record.seq > self._book.version(owner)
        ]
        for start in range(GREETINGS_MAX):
            some = loose[start * PER_GREETING : (start + 1) * PER_GREETING]
            if some:
                with suppress(MeshError):
                    await link.notify(GossipAck(tuple(record.raw for record in some), _follows(some)))

    # --- What is said here ---

    async def root(self) -> Signer | None:
        """The root key of this very mesh, if it lies on this device."""
        root = await self._seams.blocking(lambda: load_root(self._home))
        return root if root is not None and root.public == self.mesh.root_key else None

    async def authority(self) -> Authority:
        """This node's place in its mesh, for the operator's actions."""
        return Authority(
            identity=self._identity,
            mesh=self.mesh,
            members=self._members,
            seams=self._seams,
            root=await self.root(),
            next_seq=self.next_seq,
            publish=self.publish,
            offers=self._offers,
            name_of=self._name_of,
            present=lambda node: (
                node == self._book.own or self._book.get(node, RecordType.VITALS) is not None
            ),
        )

    async def next_seq(self) -> int:
        """The next seq of this node's own records, for one that is signed elsewhere."""
        seq = self._book.next_seq(self._seams.now_ms())
        await self._store.raise_seq(seq)
        return seq

    async def publish(self, record: Record) -> None:
        """Keep a record that was signed here, and spread it. It is on the disk before anybody hears of it."""
        await self._keep([record])
        self.put(record)

    def put(self, record: Record) -> None:
        """Spread a record that was signed here and is kept already."""
        if record.owner == self._book.own:
            self._book.adopt(record, trio.current_time())
            self.merged(Merged((record,), (), ()))
        else:
            self.merged(self._merge((record.raw,), in_order=True, sender=record.owner))
        self._ties.nudge()

    async def claim(self) -> bool:
        """Become an issuer by the root key on this device, as after it was restored; whether there is one."""
        root = await self.root()
        if root is not None and self.mesh.role != ROLE_ISSUER:
            await self._claim(root)
        return root is not None

    async def _claim(self, root: Signer) -> None:
        authority, now_ms = await self.authority(), self._seams.now_ms()
        found = authority.everybody().get(self._identity.node)
        certificate = certificate_of(
            issue_issuer(
                root,
                key=self._identity.key,
                name=found.certificate.name if found else "",
                serial=found.certificate.serial if found else new_serial(self._seams.entropy),
                issued_ms=now_ms,
                labels=found.certificate.labels if found else (LABEL_TRUSTED,),
            )
        )
        await authority.certify(certificate, by_root=True)
        await self._store.save_mesh(self.mesh)

    def _name_of(self, node: NodeId) -> str:
        peer = self._ties.peers().get(node)
        return peer.name if peer is not None else ""

    def _offers(self, node: NodeId) -> tuple[bytes, ...]:
        if node == self._book.own:
            return tuple(card.digest for card in self._ties.cards().values())
        peer = self._ties.peers().get(node)
        return tuple(ad.digest for ad in peer.models) if peer is not None else ()

    async def _renew(self) -> None:
        while True:
            await trio.sleep(RENEW_EVERY_S * (0.5 + self._seams.rng.random()))
            if self.mesh.role == ROLE_ISSUER:
                await _unless_unusable(self._renew_due)

    async def _renew_due(self) -> None:
        for one in await renew_due(await self.authority()):
            log.info("certificate renewed", peer=one.node, until_ms=one.until_ms)


async def _unless_unusable(work: Callable[..., Awaitable[object]], *given: object) -> None:
    try:
        await work(*given)
    except MeshError as error:
        log.warning("papers not kept", why=str(error))


def _follows(records: list[Record]) -> bytes:
    """For each owner a version that lies right before these: whoever has less keeps asking for what lies between."""
    lowest: dict[bytes, int] = {}
    for record in records:
        prefix = record.owner[:PREFIX_BYTES]
        lowest[prefix] = min(lowest.get(prefix, record.seq), record.seq)
    return pack_digest(sorted((prefix, seq - 1) for prefix, seq in lowest.items()))


def _kept(record: Record) -> Kept:
    until_ms = record.issued_ms + record.ttl_ms + CLOCK_TOLERANCE_MS
    return Kept(f"{to_text(record.owner)}/{record.name}", record.raw, until_ms)
