"""What this node knows of each other node, joined: ad, models, vitals, standing, and the way to it.

A view is made from records and links as they are now; nothing in it is guessed beyond them. It decides
nothing: which of these nodes may serve is for `routing`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from meshnode.mesh import paths
from meshnode.mesh.ads import ModelAd, NodeAd, read_model_ad, read_node_ad
from meshnode.mesh.book import RecordBook
from meshnode.mesh.node_ads import NodeAds
from meshnode.mesh.vitals import NEIGHBOURS_MAX, Vitals, read_vitals
from meshnode.terms import Candidate, Openness, Trust
from meshwire.errors import RemoteWireError
from meshwire.ids import NodeId
from meshwire.limits import ROUTE_LINKS
from meshwire.records import Record, RecordType


class Standing(Protocol):
    """How far a node is trusted, as `trust` finds from its certificates."""

    @property
    def trust(self) -> Trust:
        """Its level in the lattice."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels from its certificate, such as residency."""
        ...

    def trust_for(self, weights: bytes) -> Trust:
        """Its level while it runs the weights with this SHA-256."""
        ...


T = TypeVar("T")
StandingOf = Callable[[bytes], Standing | None]
Attested = Callable[[bytes, bytes], bool]
"""Whether the evidence that the node with this key shows proves its hardware."""


def nothing_attested(_key: bytes, _evidence: bytes) -> bool:
    """For a node that knows no way to verify hardware: nobody's counts."""
    return False


@dataclass(frozen=True, slots=True)
class Peer:
    """One other node.

    `ad` and `vitals` are None when there is no current record; `rtt_ms` is this node's own measurement, None
    without a link or before the first; `route` is None when the node is out of reach; `vitals_seq` tells one
    state of its queues from the next. `trust` is its level whatever it runs, `trusts` that with each of its models,
    by their weights' SHA-256.
    """

    node: NodeId
    key: bytes
    ad: NodeAd | None
    vitals: Vitals | None
    vitals_seq: int
    models: tuple[ModelAd, ...]
    trust: Trust
    labels: tuple[str, ...]
    linked: bool
    rtt_ms: float | None
    route: paths.Route | None
    trusts: Mapping[bytes, Trust] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its owner calls it; empty while its ad is not known."""
        return self.ad.name if self.ad is not None else ""

    @property
    def in_reach(self) -> bool:
        """Whether a route of no more links than one may have leads to it."""
        return self.route is not None and len(self.route.path) <= ROUTE_LINKS

    def offers(self, family: str) -> bool:
        """Whether it has a model of this family; of any if it is empty."""
        return any(family in ("", model.family) for model in self.models)

    def candidates(self) -> list[Candidate]:
        """This node with each of its models, as the decision needs it."""
        return [self._candidate(model) for model in self.models]

    def _candidate(self, model: ModelAd) -> Candidate:
        vitals = self.vitals or Vitals()
        return Candidate(
            node=self.node,
            card=model.card,
            trust=self.trusts.get(model.digest, self.trust),
            labels=self.labels,
            path=self.route.path if self.route is not None else (),
            rtt_ms=self.route.rtt_ms if self.route is not None else None,
            in_flight=vitals.in_flight,
            queued_prefill=vitals.queued_prefill,
            queued_decode=vitals.queued_decode,
            accepting=vitals.openness.takes_others,
            deprioritised=vitals.openness is Openness.DEPRIORITISED,
            ad_expired=self.vitals is None or self.ad is None,
            reachable=self.route is not None,
            price_usd=model.price_usd,
        )


class Peers:
    """The joined view over a book. What a record says is read once, however often it is looked at."""

    def __init__(self, book: RecordBook, attested: Attested = nothing_attested) -> None:
        self._book = book
        self._attested = attested
        self._read: dict[bytes, Any] = {}
        self._ads = NodeAds(book)
        self._read_at = -1
        self._graph_for: tuple[object, ...] = ()
        self._graph: paths.Graph = {}
        self._routes: dict[NodeId, paths.Route] = {}

    def view(
        self,
        links: paths.Links,
        standing: StandingOf,
        doubted: tuple[NodeId, ...] = (),
        dead: Collection[NodeId] = frozenset(),
    ) -> dict[NodeId, Peer]:
        """Every other member with a current record, by id.

        `links` are this node's live links with their round trips in milliseconds, `doubted` the ends of those that
        have fallen silent; `standing(key)` is None for a key that is no member. No route leads to or through the
        `dead`; what they said stays.
        """
        self._refresh()
        self._find_routes(links, doubted, dead)
        by_owner = self._records_by_owner()
        return {
            node: self._peer(node, records, links, standing)
            for node, records in sorted(by_owner.items())
            if node != self._book.own and standing(records[0].key) is not None
        }

    def ad(self, node: NodeId) -> NodeAd | None:
        """A node's current ad, if it makes sense; it costs no look at all the others."""
        return self._ads.get(node)

    def carries(self, node: NodeId) -> bool:
        """Whether a node may be asked to be a relay: it carries for others, and others can dial it."""
        ad = self.ad(node)
        return ad is not None and ad.carries and ad.dialable

    def addresses(self, node: NodeId) -> tuple[str, ...]:
        """Where a node can be dialled, by its current ad."""
        ad = self.ad(node)
        return ad.addresses if ad is not None else ()

    def candidates(self, view: Mapping[NodeId, Peer]) -> list[Candidate]:
        """Every pair of node and model in a view; which fit is decided elsewhere, with reasons."""
        return [candidate for peer in view.values() for candidate in peer.candidates()]

    def alternates(
        self,
        target: NodeId,
        links: paths.Links,
        count: int = 2,
        doubted: tuple[NodeId, ...] = (),
        without: tuple[NodeId, ...] = (),
    ) -> list[paths.Route]:
        """Ways to a node that share no relay, cheapest first; see `paths.alternates`."""
        self._refresh()
        self._find_routes(links, doubted, ())
        return paths.alternates(self._book.own, self._graph, target, count, without)

    def _peer(self, node: NodeId, records: list[Record], links: paths.Links, standing: StandingOf) -> Peer:
        known = standing(records[0].key)
        vitals_record = next((record for record in records if record.type is RecordType.VITALS), None)
        ads = [self._read.get(record.raw) for record in records]
        ad, models = _first(NodeAd, ads), _every(ModelAd, ads)
        return Peer(
            node=node,
            key=records[0].key,
            ad=ad,
            vitals=_first(Vitals, ads),
            vitals_seq=vitals_record.seq if vitals_record is not None else 0,
            models=tuple(sorted(models, key=lambda model: model.record_name)),
            trust=known.trust if known is not None else Trust.NONE,
            labels=known.labels if known is not None else (),
            linked=node in links,
            rtt_ms=links.get(node),
            route=self._routes.get(node),
            trusts=self._trusts(records[0].key, known, ad, models) if known is not None else {},
        )

    def _trusts(
        self, key: bytes, known: Standing, ad: NodeAd | None, models: list[ModelAd]
    ) -> dict[bytes, Trust]:
        """How far a node is trusted with each model; attested hardware counts for what is endorsed on it alone."""
        levels = {model.digest: known.trust_for(model.digest) for model in models}
        endorsed = [digest for digest, level in levels.items() if level >= Trust.ENDORSED]
        if endorsed and ad is not None and ad.evidence and self._attested(key, ad.evidence):
            levels |= dict.fromkeys(endorsed, Trust.HARDWARE)
        return levels

    def _records_by_owner(self) -> dict[NodeId, list[Record]]:
        by_owner: dict[NodeId, list[Record]] = {}
        for kind in (RecordType.NODE, RecordType.MODEL, RecordType.VITALS):
            for owner, record in self._book.all(kind):
                by_owner.setdefault(owner, []).append(record)
        return by_owner

    def _refresh(self) -> None:
        """Read the records that have come since the last time, and forget those that have gone."""
        if self._read_at == self._book.revision:
            return
        self._read_at = self._book.revision
        current = [record for kind in _READERS for _, record in self._book.all(kind)]
        before = self._read
        self._read = {
            record.raw: before[record.raw] if record.raw in before else _read(record) for record in current
        }

    def _find_routes(self, links: paths.Links, doubted: tuple[NodeId, ...], dead: Collection[NodeId]) -> None:
        graph_for = (self._read_at, tuple(links.items()), doubted, frozenset(dead))
        if graph_for != self._graph_for:
            self._graph_for = graph_for
            every = paths.graph(self._book.own, links, self._claims(), doubted)
            paths.keep_to_relays(self._book.own, every, self._carriers())
            self._graph = paths.without(dead, every)
            self._routes = paths.routes(self._book.own, self._graph)

    def _carriers(self) -> dict[NodeId, paths.Carriers]:
        """Who may carry circuits to a node, and whether it carries any itself, where that is not as usual."""
        ads = {owner: self._read.get(record.raw) for owner, record in self._book.all(RecordType.NODE)}
        return {
            node: paths.Carriers(None if ad.dialable else frozenset(map(NodeId, ad.relays)), ad.carries)
            for node, ad in ads.items()
            if ad is not None and not (ad.dialable and ad.carries)
        }

    def _claims(self) -> dict[NodeId, paths.Claim]:
        """What nodes say of their links; the relays of an ad count where the vitals cannot say them all."""
        claims = {
            owner: paths.Claim(record.issued_ms, dict.fromkeys(map(NodeId, ad.relays), paths.UNKNOWN_RTT_MS))
            for owner, record in self._book.all(RecordType.NODE)
            if (ad := self._read.get(record.raw)) is not None and ad.relays
        }
        for owner, record in self._book.all(RecordType.VITALS):
            vitals = self._read.get(record.raw)
            if vitals is not None:
                neighbours = {NodeId(one.node): one.rtt_ms for one in vitals.neighbours}
                full = len(neighbours) == NEIGHBOURS_MAX
                if full and owner in claims:
                    neighbours = {**claims[owner].neighbours, **neighbours}
                claims[owner] = paths.Claim(record.issued_ms, neighbours, full)
        return claims


_READERS: dict[RecordType, Callable[[Record], Any]] = {
    RecordType.NODE: read_node_ad,
    RecordType.MODEL: read_model_ad,
    RecordType.VITALS: read_vitals,
}


def _read(record: Record) -> Any:
    """What a record says, or None if it makes no sense: then its owner is as if it had said nothing."""
    try:
        return _READERS[record.type](record)
    except RemoteWireError:
        return None


def _first(kind: type[T], things: Iterable[Any]) -> T | None:
    return next(iter(_every(kind, things)), None)


def _every(kind: type[T], things: Iterable[Any]) -> list[T]:
    return [thing for thing in things if isinstance(thing, kind)]
