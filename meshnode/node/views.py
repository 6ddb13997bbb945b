"""The node's snapshot: facts from its parts as plain data, for status, peers, models and the API."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from meshnode import __version__
from meshnode.config import Config
from meshnode.engine.base import Engine, EngineState
from meshnode.engine.process import LlamaEngine
from meshnode.engine.scripted import ScriptedEngine
from meshnode.mesh.peers import Peer
from meshnode.node.presence import Presence
from meshnode.observe.snapshot import (
    EngineView,
    LinkView,
    MeshView,
    ModelView,
    PeerView,
    SharingView,
    Snapshot,
)
from meshnode.serve.cloud import CloudRung
from meshnode.serve.local import Bench
from meshnode.terms import ModelCard
from meshwire.ids import NodeId, to_text


@dataclass(slots=True)
class Joining:
    """How far the node has come with joining a mesh: `state` is alone, joining, joined or failed."""

    state: str = "alone"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a snapshot is taken of."""

    config: Config
    node: NodeId
    bench: Bench
    presence: Presence | None
    cloud: CloudRung
    joining: Joining
    api_url: str
    started_at: float
    sharing: SharingView
    distrusted: Callable[[bytes], tuple[bytes, ...]]
    under_way: int = 0


def snapshot_of(facts: Facts) -> Snapshot:
    """The picture at this moment."""
    presence, engines = facts.presence, tuple(_engine_view(facts, engine) for engine in facts.bench.engines)
    view = presence.view() if presence else {}
    return Snapshot(
        node=to_text(facts.node),
        name=facts.config.name,
        state=_state(facts.bench.engines),
        version=__version__,
        mesh=_mesh_view(presence),
        api_url=facts.api_url,
        mesh_addresses=presence.addresses if presence else (),
        uptime_s=trio.current_time() - facts.started_at,
        under_way=facts.under_way,
        join_state="joined" if facts.joining.state == "alone" and view else facts.joining.state,
        join_detail=facts.joining.detail,
        engine=engines[0] if engines else EngineView(),
        engines=engines,
        sharing=facts.sharing,
        links=tuple(_link_views(presence, view)),
        peers=tuple(_peer_view(peer, facts.distrusted(peer.node)) for peer in view.values()),
        models=models_of(facts, view),
        cloud=facts.cloud.views(),
    )


def models_of(facts: Facts, view: dict[NodeId, Peer]) -> tuple[ModelView, ...]:
    """Each model on offer once, with everybody who has it, this node first; those of commercial APIs last."""
    cards: dict[tuple[str, bytes], ModelCard] = {}
    nodes: dict[tuple[str, bytes], list[str]] = {}
    states = {card.digest: engine.state for engine in facts.bench.engines for card in engine.cards}
    prices: dict[tuple[str, bytes], list[float]] = {}
    for ad in (ad for peer in view.values() for ad in peer.models):
        prices.setdefault((ad.card.name, ad.card.digest), []).append(ad.price_usd)
    own = ((to_text(facts.node), card) for engine in facts.bench.engines for card in engine.cards)
    others = ((to_text(peer.node), ad.card) for peer in view.values() for ad in peer.models)
    for node, card in (*own, *others):
        key = (card.name, card.digest)
        cards.setdefault(key, card)
        nodes.setdefault(key, []).append(node)
    me = to_text(facts.node)
    on_mesh = tuple(
        _model_view(
            card,
            tuple(nodes[key]),
            local=me in nodes[key],
            state=states.get(card.digest),
            price_usd=min(prices.get(key, [0.0])),
        )
        for key, card in cards.items()
    )
    return (*on_mesh, *facts.cloud.models())


def _model_view(
    card: ModelCard,
    nodes: tuple[str, ...],
    *,
    local: bool,
    state: EngineState | None,
    price_usd: float,
) -> ModelView:
    return ModelView(
        name=card.name,
        quant=card.quant,
        tier=card.tier,
        context=card.context,
        digest=card.digest.hex(),
        nodes=nodes,
        local=local,
        generate_tps=card.generate_tps,
        state=state or EngineState.READY,
        price_usd=price_usd,
    )


def _state(engines: tuple[Engine, ...]) -> str:
    """Ready when something can be served; a node without a model is ready to pass requests on."""
    states = {engine.state for engine in engines}
    if states & {EngineState.READY, EngineState.STANDBY}:
        return "ready"
    if EngineState.LOADING in states:
        return "loading"
    return "failed" if EngineState.FAILED in states else "ready"


def _mesh_view(presence: Presence | None) -> MeshView:
    if presence is None:
        return MeshView()
    mesh = presence.mesh
    return MeshView(
        id=to_text(mesh.id),
        name=mesh.name,
        open=mesh.is_open,
        role=mesh.role or "none",
        relays=tuple(to_text(node) for node in presence.leases.named()),
        relaying_for=presence.relaying.served(trio.current_time()),
        dead=len(presence.watch.dead()),
        gossip_sent_bytes=presence.gossip.traffic.sent_bytes,
        gossip_received_bytes=presence.gossip.traffic.received_bytes,
    )


def _engine_view(facts: Facts, engine: Engine) -> EngineView:
    load = facts.bench.gate.load(engine)
    names = ", ".join(card.name for card in engine.cards)
    return EngineView(
        kind=_kind(engine),
        state=engine.state,
        detail=engine.detail,
        model=facts.bench.expected(engine) or names,
        in_flight=load.in_flight,
        queued=load.queued_prefill + load.queued_decode,
        waiting=facts.bench.gate.waiting(engine),
        slots=load.slots,
        restarts=engine.restarts if isinstance(engine, LlamaEngine) else 0,
        sandbox=engine.posture.kind if engine.cards else "",
        exposure=_exposure(facts, engine) if engine.cards else "",
    )


def _exposure(facts: Facts, engine: Engine) -> str:
    """Why an engine is not contained, and what follows from that; empty for one that is."""
    if engine.posture.contained:
        return ""
    why = f"because {engine.posture.why}" if engine.posture.why else "as tried from inside it"
    if facts.bench.open_to_others(engine):
        return f"not contained, {why}; other nodes' work is done all the same, as allow_unsandboxed says"
    return f"not contained, {why}; other nodes' work is refused, allow it with --allow-unsandboxed"


def _kind(engine: Engine) -> str:
    if isinstance(engine, LlamaEngine):
        return "llama"
    return "scripted" if isinstance(engine, ScriptedEngine) else "upstream"


def _link_views(presence: Presence | None, view: dict[NodeId, Peer]) -> Iterable[LinkView]:
    for link in presence.links() if presence else ():
        peer = view.get(link.node)
        yield LinkView(
            node=to_text(link.node),
            name=peer.name if peer else "",
            address=link.remote,
            inbound=not link.initiator,
            rtt_ms=link.rtt_ms,
            path_links=link.path_links,
        )


def _peer_view(peer: Peer, distrusted: tuple[bytes, ...]) -> PeerView:
    vitals = peer.vitals
    return PeerView(
        node=to_text(peer.node),
        name=peer.name,
        state="linked" if peer.linked else "reachable" if peer.route else "unreachable",
        trust=max([peer.trust, *peer.trusts.values()]).name.lower(),
        path=tuple(to_text(NodeId(node)) for node in peer.route.path) if peer.route else (),
        rtt_ms=peer.rtt_ms if peer.linked else peer.route.rtt_ms if peer.route else None,
        models=tuple(ad.record_name for ad in peer.models),
        in_flight=vitals.in_flight if vitals else 0,
        queued=vitals.queued_prefill + vitals.queued_decode if vitals else 0,
        accepting=vitals.openness.takes_others if vitals else False,
        distrusted=tuple(_named(peer, digest) for digest in distrusted),
    )


def _named(peer: Peer, digest: bytes) -> str:
    """What the peer calls these weights; their digest if it offers them no more."""
    return next((ad.record_name for ad in peer.models if ad.card.digest == digest), digest.hex())
