"""Which cells of the key-value cache hold which tokens, for whom: a radix tree over computed tokens.

A node of the tree is a run of cells; a sequence is a path from its scope's root, and sequences that were
copied from each other share the upper part of their paths. So the longest common beginning is a walk down,
and a cell that many sequences share is counted once. Pure: it knows tokens and numbers of sequences, not
llama.cpp, and not what a sequence is for.

The structure is that of SGLang's RadixAttention (Zheng et al. 2023, arXiv:2312.07104), with one difference:
tokens that two sequences computed each for itself stay in two nodes, because they are in two sets of cells.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Match(NamedTuple):
    """The `length` first tokens of something are in the cache, for each of the sequences `holders`."""

    length: int
    holders: tuple[int, ...]


NO_MATCH = Match(0, ())


class _Node:
    """A run of cells. `holders` are the sequences whose path goes through it, in a fixed order."""

    __slots__ = ("children", "holders", "tokens")

    def __init__(self, tokens: list[int], holders: dict[int, None]) -> None:
        self.tokens = tokens
        self.holders = holders
        self.children: list[_Node] = []


class Prefixes:
    """All sequences of one cache. `cells` is how many cells they hold, shared ones counted once."""

    def __init__(self) -> None:
        self.cells = 0
        self._roots: dict[bytes, _Node] = {}
        self._paths: dict[int, list[_Node]] = {}

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._paths

    def open(self, sequence: int, scope: bytes) -> None:
        """Begin an empty sequence. Nothing is ever found in one whose scope is empty."""
        root = self._roots.setdefault(scope, _Node([], {})) if scope else _Node([], {})
        root.holders[sequence] = None
        self._paths[sequence] = [root]

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence are in the cache."""
        return sum(len(node.tokens) for node in self._paths[sequence])

    def tokens(self, sequence: int) -> list[int]:
        """All tokens of a sequence that are in the cache."""
        return [token for node in self._paths[sequence] for token in node.tokens]

    def own(self, sequence: int) -> int:
        """How many of its cells no other sequence holds."""
        return sum(len(node.tokens) for node in self._paths[sequence] if len(node.holders) == 1)

    def begins(self, sequence: int, tokens: Sequence[int]) -> bool:
        """Whether all that a sequence has in the cache is a beginning of `tokens`."""
        held = self.tokens(sequence)
        return held == tokens[: len(held)]

    def held(self, sequences: Sequence[int]) -> int:
        """Cells that at least one of these sequences holds."""
        nodes = {id(node): len(node.tokens) for each in sequences for node in self._paths[each]}
        return sum(nodes.values())

    def find(self, scope: bytes, tokens: Sequence[int]) -> Match:
        """The longest beginning of `tokens` that a sequence of this scope has in the cache."""
        root = self._roots.get(scope) if scope else None
        return _deepest(root, tokens, 0) if root else NO_MATCH

    def extend(self, sequence: int, tokens: Sequence[int]) -> None:
        """Tokens were computed for a sequence, in cells of its own."""
        path = self._paths[sequence]
        leaf = path[-1]
        self.cells += len(tokens)
        if len(path) > 1 and len(leaf.holders) == 1:
            leaf.tokens += tokens
        else:
            path.append(_Node(list(tokens), {sequence: None}))
            leaf.children.append(path[-1])

    def share(self, source: int, sequence: int, length: int) -> None:
        """An empty sequence takes part in the cells of the first `length` tokens of another of its scope."""
        for node in self._upper(source, length)[1:]:
            node.holders[sequence] = None
            self._paths[sequence].append(node)

    def rename(self, sequence: int, name: int) -> None:
        """A sequence goes by another number from now on."""
        path = self._paths[name] = self._paths.pop(sequence)
        for node in path:
            del node.holders[sequence]
            node.holders[name] = None

    def cut(self, sequence: int, length: int) -> None:
        """Forget a sequence's tokens after the first `length`; cells that nobody else holds get free."""
        kept = len(self._upper(sequence, length))
        path = self._paths[sequence]
        while len(path) > kept:
            node = path.pop()
            del node.holders[sequence]
            if not node.holders:
                path[-1].children.remove(node)
                self.cells -= len(node.tokens)

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        self.cut(sequence, 0)
        (root,) = self._paths.pop(sequence)
        del root.holders[sequence]
        if not root.holders:
            self._roots = {scope: each for scope, each in self._roots.items() if each is not root}

    def _upper(self, sequence: int, length: int) -> list[_Node]:
        """The nodes of the first `length` tokens, root first; the one that goes on beyond them is split."""
        upper: list[_Node] = []
        for node in list(self._paths[sequence]):
            if len(node.tokens) > length:
                return [*upper, self._split(node, upper[-1], length)] if length else upper
            upper.append(node)
            length -= len(node.tokens)
        return upper

    def _split(self, node: _Node, parent: _Node, at: int) -> _Node:
        """Put the first `at` tokens of a node into a new one above it, in every path through it."""
        upper = _Node(node.tokens[:at], dict(node.holders))
        upper.children = [node]
        node.tokens = node.tokens[at:]
        parent.children[parent.children.index(node)] = upper
        for holder in node.holders:
            path = self._paths[holder]
            path.insert(path.index(node), upper)
        return upper


def _deepest(node: _Node, tokens: Sequence[int], at: int) -> Match:
    """The longest match below a node whose own tokens match up to `at`."""
    best = Match(at, tuple(node.holders))
    for child in node.children:
        common = common_length(child.tokens, tokens[at : at + len(child.tokens)])
        if common == len(child.tokens):
            found = _deepest(child, tokens, at + common)
        else:
            found = Match(at + common, tuple(child.holders))
        if found.length > best.length:
            best = found
    return best


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two lists have in common at their beginnings."""
    size = min(len(left), len(right))
    if left[:size] == right[:size]:
        return size
    return next(place for place in range(size) if left[place] != right[place])
