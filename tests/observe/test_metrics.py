"""What Prometheus reads: well formed, named by its rules, a node's own, and all that the dashboard asks for."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshnode.errors import every_error
from meshnode.observe.metrics import OK, OTHER, RUNGS, Metrics, rung_of
from meshnode.observe.snapshot import CloudView, EngineView, LinkView, MeshView, PeerView, Snapshot
from meshnode.terms import Answer, Usage

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
BUILT_IN = {
    "le",
    "instance",
}  # the buckets' own label, and the one that Prometheus gives to whatever it reads
SEEN = Snapshot(
    node="n",
    name="desk",
    state="ready",
    version="0.1.0",
    uptime_s=12.5,
    under_way=3,
    mesh=MeshView(dead=1, gossip_sent_bytes=100, gossip_received_bytes=50),
    engines=(
        EngineView(kind="llama", state="ready", model='a "b"\n', in_flight=2, waiting=1, slots=4, restarts=2),
        EngineView(kind="llama", state="ready", model='a "b"\n', in_flight=1, slots=4, restarts=1),
    ),
    links=(LinkView(node="x"), LinkView(node="y", path_links=2)),
    peers=(PeerView(node="x", state="linked"), PeerView(node="y", state="reachable")),
    cloud=(CloudView(name="api", monthly_usd=5.0, spent_usd=1.25),),
)


def filled() -> Metrics:
    """Metrics in which every series that can be there is."""
    metrics = Metrics(lambda: SEEN)
    metrics.requests.labels("local", OK).inc()
    for histogram in (metrics.duration, metrics.first_token, metrics.gap):
        histogram.labels("local").observe(0.2)
    for counter in (metrics.prompt_tokens, metrics.cached_tokens, metrics.answer_tokens):
        counter.labels("local").inc(7)
    metrics.cache_answers.labels("exact").inc()
    metrics.note_hedge("won")
    metrics.note_served(OK, Usage(5, 3))
    return metrics


def families_of(metrics: Metrics):
    return {one.name: one for one in text_string_to_metric_families(metrics.exposition().decode())}


def samples_of(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels; two of the same would be one too few."""
    every = [sample for family in families_of(metrics).values() for sample in family.samples]
    samples = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in every}
    assert len(samples) == len(every)
    return samples


def test_the_exposition_is_read_back_as_it_was_meant() -> None:
    samples = samples_of(filled())
    model = (("kind", "llama"), ("model", 'a "b"\n'))
    assert samples["meshnode_engine_requests", model] == 3
    assert samples["meshnode_engine_slots", model] == 8
    assert samples["meshnode_worker_restarts_total", model] == 3
    assert samples["meshnode_requests_total", (("outcome", "ok"), ("rung", "local"))] == 1
    assert samples["meshnode_links", (("kind", "circuit"),)] == 1
    assert samples["meshnode_peers", (("state", "unreachable"),)] == 0
    assert samples["meshnode_peers_dead", ()] == 1
    assert samples["meshnode_gossip_bytes_total", (("direction", "sent"),)] == 100
    assert samples["meshnode_cloud_spent_usd", (("api", "api"),)] == 1.25
    assert samples["meshnode_served_tokens_total", (("kind", "answer"),)] == 3
    assert samples["meshnode_requests_in_flight", ()] == 3


def test_names_follow_prometheus_rules() -> None:
    for name, family in families_of(filled()).items():
        assert re.fullmatch(r"meshnode_[a-z]+(_[a-z]+)*", name), name
        assert family.documentation.endswith(".") or family.documentation.startswith("Always"), name
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(
            family.type, ("",)
        )
        assert {one.name for one in family.samples} <= {name + suffix for suffix in suffixes}, name
        assert not re.search(r"_(ms|milliseconds|mb|kb|percent)\b", name), name


def test_two_nodes_do_not_share_a_registry() -> None:
    one, other = filled(), Metrics(lambda: SEEN)
    other.requests.labels("peer", OK).inc()
    labels = (("outcome", "ok"), ("rung", "local"))
    assert ("meshnode_requests_total", labels) in samples_of(one)
    assert ("meshnode_requests_total", labels) not in samples_of(other)


def test_labels_are_from_a_fixed_set() -> None:
    metrics = filled()
    assert {metrics.outcome(code) for code in every_error()} == set(every_error())
    for hostile in ("a newer peer's", "x" * 5000, 'y"} 1\n'):
        metrics.note_served(hostile, Usage())
        assert metrics.outcome(hostile) == OTHER
    outcomes = {
        dict(labels)["outcome"]
        for name, labels in samples_of(metrics)
        if name == "meshnode_served_requests_total"
    }
    assert outcomes == {OK, OTHER}


@pytest.mark.parametrize(
    ("rung", "cache", "label"), [("peer", "", "peer"), ("local", "exact", "cache"), ("?", "", "none")]
)
def test_a_kept_answer_is_a_rung_of_its_own(rung: str, cache: str, label: str) -> None:
    answer = Answer(model="m", served_by="n", path=(), rung=rung, trust="", tier=0, cache=cache)
    assert rung_of(answer) == label
    assert label in RUNGS


def queries() -> list[str]:
    targets = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return targets + [one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]


def test_the_dashboard_asks_for_what_is_exported_and_shows_all_of_it() -> None:
    families = families_of(filled())
    labels: dict[str, set[str]] = {}
    for family in families.values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    asked: set[str] = set()
    for query in queries():
        names = re.findall(r"\bmeshnode_\w+", query)
        assert names, query
        assert set(names) <= set(labels), query
        known = set().union(*(labels[name] for name in names)) | BUILT_IN
        grouped = [
            label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")
        ]
        selected = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query)
        assert set(grouped) | set(selected) <= known, query
        asked |= set(names)
    shown = {name for name, family in families.items() if any(one.name in asked for one in family.samples)}
    assert shown == set(families)


def test_legends_name_labels_that_are_there() -> None:
    families = families_of(filled())
    labels = {one.name: set(one.labels) for family in families.values() for one in family.samples}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            (name, *_) = re.findall(r"\bmeshnode_\w+", target["expr"])
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert wanted <= labels[name] | BUILT_IN, target


def test_every_metric_is_on_the_page() -> None:
    for name, family in families_of(filled()).items():
        shown = f"{name}_total" if family.type == "counter" else name
        assert f"`{shown}`" in PAGE, name
