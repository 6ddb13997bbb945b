"""The cheapest ways to a node: at most a few links, by round trip. Plain graph work over what is claimed.

A node's own links are measured. Others are known from vitals: an edge counts if either end names it, unless
the other end has spoken later and no longer does. That is how a crash shows at once: the dead node's last
words still name its neighbours, but theirs no longer name it.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from meshwire.ids import NodeId
from meshwire.limits import ROUTE_LINKS

UNKNOWN_RTT_MS = 250.0
DOUBT_MS = 5_000.0  # a way through a node whose link has fallen silent is the last to be taken
LINK_MS = 1.0  # what each relay adds; it also makes the shorter of two equal paths win
DETOUR_GAIN = 2.0  # a live link of one's own gives way only to relays that claim to be so many times faster
LINKS_LOOKED_AT = 6  # beyond what may be used, only to be able to say that a node is too far


@dataclass(frozen=True, slots=True)
class Claim:
    """The neighbours that a node names, when it said so, and whether there may be more of them."""

    issued_ms: int
    neighbours: Mapping[NodeId, float]
    full: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a node: the far end of each link in order, and the round trip over all of them."""

    path: tuple[NodeId, ...]
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Carriers:
    """The only nodes that carry circuits to a node, None for all, and whether it carries those of others."""

    of: frozenset[NodeId] | None
    carries: bool = True


Links = Mapping[NodeId, float | None]
Claims = Mapping[NodeId, Claim]
Graph = dict[NodeId, dict[NodeId, float]]


def graph(own: NodeId, links: Links, claims: Claims, doubted: Collection[NodeId] = ()) -> Graph:
    """Every edge that counts, both ways, in milliseconds; own links outweigh whatever is claimed of them.

    `doubted` are the far ends of own links that have fallen silent or were lost lately: a way through them costs
    more.
    """
    edges: Graph = {own: {}}
    for node, claim in claims.items():
        for other, rtt_ms in claim.neighbours.items():
            if own not in (node, other) and not _denied(claim, node, claims.get(other)):
                cost = max(rtt_ms, edges.get(node, {}).get(other, 0.0))
                edges.setdefault(node, {})[other] = cost
                edges.setdefault(other, {})[node] = cost
    for node, own_rtt_ms in links.items():
        cost = UNKNOWN_RTT_MS if own_rtt_ms is None else own_rtt_ms
        edges[own][node] = cost
        edges.setdefault(node, {})[own] = cost
    for node in doubted:
        for other in edges.get(node, ()):
            edges[node][other] += DOUBT_MS
            edges[other][node] += DOUBT_MS
    return edges


def keep_to_relays(own: NodeId, edges: Graph, carriers: Mapping[NodeId, Carriers]) -> None:
    """Take out the edges that no circuit of `own` may use: each counts one way, from where it is nearer to `own`."""
    for node, rule in carriers.items():
        if rule.of is not None:
            for other in edges.get(node, ()):
                if other != own and other not in rule.of:
                    edges[other].pop(node, None)
    for node, rule in carriers.items():
        if node != own and not rule.carries:
            edges[node] = {}


def without(gone: Collection[NodeId], edges: Graph) -> Graph:
    """The same edges but for those to nodes that are gone."""
    if not gone:
        return edges
    return {
        node: {other: cost for other, cost in others.items() if other not in gone}
        for node, others in edges.items()
        if node not in gone
    }


def routes(own: NodeId, edges: Graph, links_max: int = LINKS_LOOKED_AT) -> dict[NodeId, Route]:
    """The cheapest route to every node in reach.

    Routes of at most three links come first; a node that has none gets its shortest longer one. An own link, which
    is measured and needs nobody else, wins unless a detour is much faster. Bellman and Ford's relaxation, one round
    for each link, so that a path never grows beyond the bound.
    """
    found: dict[NodeId, Route] = {own: Route((), 0.0)}
    frontier = dict(found)
    for length in range(1, links_max + 1):
        frontier = _relax(frontier, edges, found, only_new=length > ROUTE_LINKS)
        found.update(frontier)
    del found[own]
    return found | _direct(own, edges, found)


def _direct(own: NodeId, edges: Graph, found: Mapping[NodeId, Route]) -> dict[NodeId, Route]:
    """The own links that are better than the detours found, taking into account what a detour costs others."""
    links = {node: Route((node,), rtt_ms + LINK_MS) for node, rtt_ms in edges[own].items()}
    return {node: link for node, link in links.items() if link.rtt_ms < DETOUR_GAIN * found[node].rtt_ms}


def alternates(
    own: NodeId, edges: Graph, target: NodeId, count: int = 2, without: Collection[NodeId] = ()
) -> list[Route]:
    """Up to `count` usable routes to a node, cheapest first, of which no two share a relay.

    None leads through the nodes in `without`.
    """
    edges = {node: dict(others) for node, others in edges.items() if node not in without}
    found: list[Route] = []
    while len(found) < count:
        route = routes(own, edges, ROUTE_LINKS).get(target)
        if route is None:
            break
        found.append(route)
        for relay in route.path[:-1]:
            edges.pop(relay)
        if len(route.path) == 1:
            edges[own].pop(target)
    return found


def _denied(claim: Claim, node: NodeId, others_word: Claim | None) -> bool:
    """Whether the other end has spoken later and does not name this one, though it names all it has."""
    if others_word is None or node in others_word.neighbours or others_word.full:
        return False
    return others_word.issued_ms > claim.issued_ms


def _relax(
    frontier: dict[NodeId, Route], edges: Graph, found: dict[NodeId, Route], *, only_new: bool
) -> dict[NodeId, Route]:
    """What improves when every route of the last round grows by one link."""
    better: dict[NodeId, Route] = {}
    for route, node, cost in _grown(frontier, edges):
        known = better.get(node) or found.get(node)
        if known is None or (cost < known.rtt_ms and not (only_new and node in found)):
            better[node] = Route((*route.path, node), cost)
    return better


def _grown(frontier: dict[NodeId, Route], edges: Graph) -> Iterator[tuple[Route, NodeId, float]]:
    for at, route in frontier.items():
        for node, rtt_ms in edges.get(at, {}).items():
            if node not in route.path:
                yield route, node, route.rtt_ms + rtt_ms + LINK_MS
