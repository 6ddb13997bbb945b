"""One iterative lookup in the DHT as a pure machine: whom to ask next, fed with what they answer.

Kademlia's lookup over disjoint paths (Baumgart and Mies, S/Kademlia, 2007): each node is asked once, by one
path, so that a hostile node on one path cannot steer the others. It never stops early because somebody
answered with a provider: an unverified provider that ends the search is how Sybils hide the true ones
(arXiv 2505.01139). Who names nodes that do not answer is listened to no longer, so that made-up nodes near the
target do not use up the time; and of one address group only so many are asked. It dials nobody and verifies
nothing; its caller hands in ids of verified records only.
"""

# The kademlia package has no types; its calls are the only ones here that are not checked.
# mypy: allow-untyped-calls

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from kademlia.node import Node, NodeHeap

from meshnode.mesh import keyspace
from meshwire.ids import NodeId
from meshwire.limits import (
    DHT_ALPHA,
    DHT_GROUP_PER_PATH,
    DHT_HEAP,
    DHT_K,
    DHT_QUERY_RPCS,
    DHT_QUERY_S,
    PROVIDERS_RETURNED,
)

DISJOINT_PATHS = 2
STALLED_AFTER = 4 * DHT_ALPHA  # answers and failures in a row that brought the k nearest no further
STRIKES = 3  # nodes that one answer named and that did not answer, when those are most of it that were asked


Provider = tuple[NodeId, str]
"""A node and the name of its record: a node may provide several models under one key."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a lookup came to: the nodes that answered, nearest first, and each provider's record."""

    closest: tuple[NodeId, ...]
    providers: Mapping[Provider, bytes]
    asked: int
    timed_out: bool


@dataclass(slots=True)
class _Path:
    """One of the disjoint paths: its heap of candidates, whom it is waiting for, who has answered it."""

    heap: NodeHeap
    budget: int
    waiting: set[NodeId] = field(default_factory=set)
    answered: list[NodeId] = field(default_factory=list)
    idle: int = 0
    named_by: dict[NodeId, set[NodeId]] = field(default_factory=dict)
    failed: dict[NodeId, int] = field(default_factory=dict)  # of the nodes that each has named
    met: dict[NodeId, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)

    def strike(self, node: NodeId) -> None:
        """A node did not answer: whoever named it answers for that."""
        for referrer in self.named_by.pop(node, ()):
            self.failed[referrer] = self.failed.get(referrer, 0) + 1

    def vouch(self, node: NodeId) -> None:
        """A node answered: whoever named it was right."""
        for referrer in self.named_by.pop(node, ()):
            self.met[referrer] = self.met.get(referrer, 0) + 1

    def credible(self, node: NodeId) -> bool:
        """Whether a candidate was known before, or named by somebody whose word is still good."""
        named_by = self.named_by.get(node)
        return not named_by or any(
            self.failed.get(one, 0) < max(STRIKES, self.met.get(one, 0)) for one in named_by
        )


class Lookup:
    """A search for the k nodes nearest to `target`.

    `seeds` are the nearest already known; `now` monotonic seconds; `group_of` the address group of a node,
    empty for none. Ask everybody that `next` names, then
    report each with `on_reply` or `on_failure`, until `done`.
    """

    def __init__(
        self,
        target: bytes,
        seeds: Sequence[NodeId],
        now: float,
        *,
        paths: int = DISJOINT_PATHS,
        group_of: Callable[[NodeId], str] = lambda node: "",
    ) -> None:
        self.target = target
        self._group_of = group_of
        self.deadline = now + DHT_QUERY_S
        self._paths = [_Path(NodeHeap(Node(target), DHT_K), DHT_QUERY_RPCS // paths) for _ in range(paths)]
        self._path_of: dict[NodeId, _Path] = {}
        self._providers: dict[Provider, bytes] = {}
        self._timed_out = False
        for index, seed in enumerate(keyspace.closest(target, seeds, DHT_K)):
            self._learn(self._paths[index % paths], [NodeId(seed)])

    def next(self, now: float) -> list[NodeId]:
        """Whom to ask now: at most alpha on each path at a time. Empty while it waits, and when done."""
        if now >= self.deadline and not self._timed_out:
            self._timed_out = not self.done
        asked: list[NodeId] = []
        for path in self._paths:
            asked.extend(self._next_of(path))
        return asked

    def on_reply(
        self, node: NodeId, closer: Iterable[NodeId], providers: Mapping[Provider, bytes] | None = None
    ) -> None:
        """A node answered: with nodes nearer to the target and with providers; only so many of each count."""
        path = self._settle(node)
        if path is None:
            return
        before = keyspace.closest(self.target, path.answered, DHT_K)
        path.answered.append(node)
        path.vouch(node)
        after = keyspace.closest(self.target, path.answered, DHT_K)
        path.idle = 0 if after != before else path.idle + 1
        named = list(closer)[:DHT_K]
        for one in named:
            if one not in self._path_of:
                path.named_by.setdefault(one, set()).add(node)
        self._learn(path, named)
        for provider, record in islice((providers or {}).items(), PROVIDERS_RETURNED):
            self._providers.setdefault(provider, record)

    def on_failure(self, node: NodeId) -> None:
        """A node did not answer, or not in time."""
        path = self._settle(node)
        if path is not None:
            path.heap.remove([node])
            path.strike(node)
            path.idle += 1

    @property
    def done(self) -> bool:
        """Whether there is nobody left to ask or to wait for, or no time."""
        return self._timed_out or all(not path.waiting and self._finished(path) for path in self._paths)

    @property
    def result(self) -> Found:
        """What was found so far."""
        answered = [node for path in self._paths for node in path.answered]
        closest = tuple(NodeId(node) for node in keyspace.closest(self.target, answered, DHT_K))
        return Found(closest, dict(self._providers), len(self._path_of), self._timed_out)

    def _next_of(self, path: _Path) -> list[NodeId]:
        asked: list[NodeId] = []
        while len(path.waiting) < DHT_ALPHA and not self._finished(path):
            node = self._open(path)[0]
            self._path_of[node] = path
            group = self._group_of(node)
            path.groups[group] = path.groups.get(group, 0) + 1
            path.waiting.add(node)
            path.budget -= 1
            asked.append(node)
        return asked

    def _finished(self, path: _Path) -> bool:
        stopped = self._timed_out or path.budget <= 0 or path.idle >= STALLED_AFTER
        return stopped or not self._open(path)

    def _open(self, path: _Path) -> list[NodeId]:
        """Those of the path's k nearest that no path has asked yet and that may be asked, nearest first."""
        while unwanted := [node.id for node in path.heap if self._is_unwanted(path, node.id)]:
            path.heap.remove(unwanted)
        return [node.id for node in path.heap if node.id not in self._path_of]

    def _is_unwanted(self, path: _Path, node: NodeId) -> bool:
        if node in self._path_of:
            return False
        group = self._group_of(node)
        return not path.credible(node) or (bool(group) and path.groups.get(group, 0) >= DHT_GROUP_PER_PATH)

    def _settle(self, node: NodeId) -> _Path | None:
        """The path that waited for this node, no longer; None if none did."""
        path = self._path_of.get(node)
        if path is None or node not in path.waiting:
            return None
        path.waiting.discard(node)
        return path

    def _learn(self, path: _Path, nodes: list[NodeId]) -> None:
        """Add candidates to a path; of more than the heap's bound, the farthest are forgotten."""
        path.heap.push([Node(node) for node in nodes])
        if len(path.heap.heap) > DHT_HEAP:
            path.heap.heap = sorted(path.heap.heap, key=lambda entry: entry[0])[:DHT_HEAP]
