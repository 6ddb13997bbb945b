"""The radix tree against a cache of single cells: what is found, and how many cells are in use."""

from hypothesis import given
from hypothesis import strategies as st

from meshnode.engine.worker.prefix import NO_MATCH, Prefixes, common_length

SCOPES = (b"", b"a", b"b")
words = st.lists(st.integers(1, 2), max_size=6)
steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "extend", "share", "cut", "drop"]),
        st.integers(0, 5),
        words,
        st.integers(0, 9),
    ),
    max_size=60,
)


class Cells:
    """What llama.cpp does, cell by cell: each sequence is a list of cells, a cell is (token, identity)."""

    def __init__(self):
        self.sequences, self.scopes, self.made = {}, {}, 0

    def compute(self, sequence, tokens):
        for token in tokens:
            self.made += 1
            self.sequences[sequence].append((token, self.made))

    def tokens(self, sequence):
        return [token for token, _ in self.sequences[sequence]]

    def used(self, sequences=None):
        chosen = self.sequences if sequences is None else sequences
        return len({cell for sequence in chosen for cell in self.sequences[sequence]})

    def longest(self, scope, tokens):
        held = [self.tokens(each) for each in self.sequences if scope and self.scopes[each] == scope]
        return max((common_length(each, tokens) for each in held), default=0)


def apply(tree, cells, step):
    what, sequence, tokens, number = step
    if what == "open" and sequence not in tree:
        scope = SCOPES[number % 3]
        tree.open(sequence, scope)
        cells.sequences[sequence], cells.scopes[sequence] = [], scope
    if sequence not in tree:
        return
    if what == "extend" and tokens:
        tree.extend(sequence, tokens)
        cells.compute(sequence, tokens)
    elif what == "cut":
        tree.cut(sequence, number)
        del cells.sequences[sequence][number:]
    elif what == "drop":
        tree.drop(sequence)
        del cells.sequences[sequence], cells.scopes[sequence]
    elif what == "share" and not cells.sequences[sequence]:
        match = tree.find(cells.scopes[sequence], tokens)
        if match.length:
            source = match.holders[number % len(match.holders)]
            assert cells.scopes[source] == cells.scopes[sequence]
            tree.share(source, sequence, match.length)
            cells.sequences[sequence] = cells.sequences[source][: match.length]


@given(steps, words)
def test_every_cell_is_counted_once_and_the_longest_beginning_is_found(taken, wanted):
    tree, cells = Prefixes(), Cells()
    for step in taken:
        apply(tree, cells, step)
        assert tree.cells == cells.used()
        for sequence in cells.sequences:
            assert tree.length(sequence) == len(cells.sequences[sequence])
            others = [each for each in cells.sequences if each != sequence]
            assert tree.own(sequence) == cells.used() - cells.used(others)
            assert tree.held([sequence]) == cells.used([sequence])
    for scope in SCOPES:
        match = tree.find(scope, wanted)
        assert match.length == cells.longest(scope, wanted)
        for holder in match.holders if match.length else ():
            assert cells.scopes[holder] == scope
            assert cells.tokens(holder)[: match.length] == wanted[: match.length]


def test_nothing_is_found_in_another_scope_or_without_one():
    tree = Prefixes()
    for sequence, scope in enumerate(SCOPES):
        tree.open(sequence, scope)
    tree.extend(0, [1, 2, 3])
    tree.extend(1, [1, 2, 4])
    assert tree.find(b"", [1, 2, 3]) == NO_MATCH
    assert tree.find(b"b", [1, 2, 4]).length == 0
    assert tree.find(b"a", [1, 2, 3]) == (2, (1,))
    assert tree.find(b"never seen", [1]) == NO_MATCH


def test_it_knows_what_begins_with_all_of_a_sequence():
    tree = Prefixes()
    tree.open(0, b"a")
    tree.extend(0, [1, 2])
    assert tree.begins(0, [1, 2, 3])
    assert not tree.begins(0, [1])
    assert not tree.begins(0, [1, 3, 3])
