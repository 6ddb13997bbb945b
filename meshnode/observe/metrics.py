"""What Prometheus reads of one node: counters and histograms of its requests, and its snapshot as gauges.

Each node has a registry of its own, so that two in one process do not add up. Labels come from fixed sets or from the
owner's settings, never from a request: nothing of a prompt, a caller or a request's id can get in here.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric

from meshnode.errors import every_error
from meshnode.observe.gauges import Gauges
from meshnode.observe.snapshot import Snapshot
from meshnode.terms import Answer, Usage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OK, CANCELLED, OTHER = "ok", "cancelled", "other"
CACHE_RUNG, NO_RUNG = "cache", "none"
RUNGS = ("local", "peer", "cloud", CACHE_RUNG, NO_RUNG)
KEPT = ("exact", "semantic")  # answers that nobody computed for this request
DURATIONS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GAPS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class _Registry(CollectorRegistry):
    """Without the moments at which each series began, which nearly double what is read and which nobody asks for."""

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


class Metrics:
    """The metrics of one node; `snapshot` says what it looks like when they are read."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self.registry: CollectorRegistry = _Registry()
        self.registry.register(Gauges(snapshot))
        self._outcomes = frozenset((OK, CANCELLED, *every_error()))
        self.requests = self._counter(
            "requests", "Requests of this node's own clients that are over.", "rung", "outcome"
        )
        self.duration = self._histogram(
            "request_duration_seconds", "From a request's arrival to its end.", DURATIONS_S, "rung"
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            FIRST_TOKEN_S,
            "rung",
        )
        self.gap = self._histogram(
            "inter_token_gap_seconds",
            "Between two pieces of an answer, as they reach its client.",
            GAPS_S,
            "rung",
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, as engines counted.", "rung")
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Those tokens of prompts that were not computed again.", "rung"
        )
        self.answer_tokens = self._counter("answer_tokens", "Tokens of answers that clients got.", "rung")
        self.cache_answers = self._counter(
            "cache_answers", "Requests answered from the cache or by a run under way.", "kind"
        )
        self.hedges = self._counter(
            "hedges", "Requests that a second node was sent too, by how that ended for it.", "outcome"
        )
        self.served = self._counter(
            "served_requests", "Requests of other nodes that are over here.", "outcome"
        )
        self.served_tokens = self._counter(
            "served_tokens",
            "Tokens read and written for other nodes, of answers that came to their end.",
            "kind",
        )

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format, see CONTENT_TYPE."""
        return generate_latest(self.registry)

    def outcome(self, code: str) -> str:
        """An error's code as a label: codes of newer peers are all the same."""
        return code if code in self._outcomes else OTHER

    def note_hedge(self, outcome: str) -> None:
        """A request was sent to a second node too, which won, lost or failed."""
        self.hedges.labels(outcome).inc()

    def note_served(self, code: str, usage: Usage) -> None:
        """A request of another node is over; `code` is OK, CANCELLED or that of its error."""
        self.served.labels(self.outcome(code)).inc()
        self.served_tokens.labels("prompt").inc(usage.prompt_tokens)
        self.served_tokens.labels("answer").inc(usage.completion_tokens)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"meshnode_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"meshnode_{name}", about, labels, buckets=buckets, registry=self.registry)


def rung_of(answer: Answer) -> str:
    """Where an answer comes from, as a label."""
    if answer.cache in KEPT:
        return CACHE_RUNG
    return answer.rung if answer.rung in RUNGS else NO_RUNG
