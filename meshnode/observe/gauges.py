"""A node's snapshot as metrics: taken when they are read, so that nothing is counted a second time."""

import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from meshnode.observe.snapshot import EngineView, Snapshot

LABEL_CHARACTERS_MAX = 64
PEER_STATES = ("linked", "reachable", "unreachable")
LINK_KINDS = ("direct", "circuit")

Samples = Iterable[tuple[tuple[str, ...], float]]


class Gauges:
    """Collects from a snapshot; it holds no figures of its own."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Names without figures: whoever registers this needs no snapshot, and a node that starts has none yet."""
        return metrics_of(Snapshot(node="", name="", state=""))

    def collect(self) -> Iterable[Metric]:
        """The metrics as they are now."""
        return metrics_of(self._snapshot())


def metrics_of(seen: Snapshot) -> Iterator[Metric]:
    """Every metric that a snapshot gives."""
    build = (seen.version, platform.python_version())
    yield _gauge("build_info", "Always 1; the labels say what runs.", [(build, 1.0)], "version", "python")
    yield _gauge("uptime_seconds", "For how long this node has been up.", [((), seen.uptime_s)])
    yield _gauge("requests_in_flight", "Requests under way here, others' included.", [((), seen.under_way)])
    accepting = float(seen.sharing.state in ("accepting", "deprioritised"))
    yield _gauge("accepting_others", "1 while this node takes other nodes' work.", [((), accepting)])
    yield from _of_mesh(seen)
    yield from _of_engines(seen.engines)
    yield from _of_cloud(seen)


def _of_mesh(seen: Snapshot) -> Iterator[Metric]:
    links = Counter("direct" if link.path_links == 1 else "circuit" for link in seen.links)
    yield _gauge("links", "Open links to other nodes.", _each(links, LINK_KINDS), "kind")
    peers = Counter(peer.state for peer in seen.peers)
    yield _gauge(
        "peers", "Nodes with a current record, by how they are reached.", _each(peers, PEER_STATES), "state"
    )
    yield _gauge("peers_dead", "Nodes that are held to be dead.", [((), seen.mesh.dead)])
    yield _gauge("relayed_nodes", "Nodes that this one carries circuits to.", [((), seen.mesh.relaying_for)])
    bytes_of = [(("sent",), seen.mesh.gossip_sent_bytes), (("received",), seen.mesh.gossip_received_bytes)]
    yield _counter(
        "gossip_bytes", "Digests and records of gossip on the present mesh.", bytes_of, "direction"
    )


def _of_engines(engines: tuple[EngineView, ...]) -> Iterator[Metric]:
    def each(figure: Callable[[EngineView], float]) -> Samples:
        """One sample for each label: engines of the same name are added up."""
        sums: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for engine in engines:
            sums[engine.kind, engine.model[:LABEL_CHARACTERS_MAX]] += figure(engine)
        return sums.items()

    yield _engine("ready", "Engines whose model is in memory.", each(lambda one: one.state == "ready"))
    yield _engine(
        "requests", "Requests at an engine, waiting ones included.", each(lambda one: one.in_flight)
    )
    yield _engine("waiting_requests", "Requests whose turn has not come.", each(lambda one: one.waiting))
    yield _engine("queued_tokens", "Tokens still to be read and written.", each(lambda one: one.queued))
    yield _engine("slots", "How many requests run at once.", each(lambda one: one.slots))
    restarts = each(lambda one: one.restarts)
    yield _counter("worker_restarts", "Workers started again after a crash.", restarts, "kind", "model")


def _of_cloud(seen: Snapshot) -> Iterator[Metric]:
    def each(figure: Callable[..., float]) -> Samples:
        return [((one.name[:LABEL_CHARACTERS_MAX],), figure(one)) for one in seen.cloud]

    yield _gauge(
        "cloud_budget_usd", "What may be spent this month.", each(lambda one: one.monthly_usd), "api"
    )
    yield _gauge("cloud_spent_usd", "What was spent this month.", each(lambda one: one.spent_usd), "api")
    about = "The most that requests of this month can have cost whose end was not seen."
    yield _gauge("cloud_assumed_usd", about, each(lambda one: one.assumed_usd), "api")
    yield _gauge("cloud_held_usd", "Held for requests under way.", each(lambda one: one.held_usd), "api")


def _each(counts: Counter[str], names: tuple[str, ...]) -> Samples:
    return [((name,), counts[name]) for name in names]


def _engine(name: str, about: str, samples: Samples) -> Metric:
    return _gauge(f"engine_{name}", about, samples, "kind", "model")


def _gauge(name: str, about: str, samples: Samples, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(f"meshnode_{name}", about, labels=labels), samples)


def _counter(name: str, about: str, samples: Samples, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(f"meshnode_{name}", about, labels=labels), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Samples) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
