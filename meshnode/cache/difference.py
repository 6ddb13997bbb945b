"""What two questions differ in, word by word: what pairs off and how, and what is left over on either side. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from meshnode.cache import lexicon
from meshnode.cache.spelling import ENDINGS, Vocabulary, is_inflected, is_regional, is_slip, stems
from meshnode.cache.words import Question, Word

LEFT_OVER = 10.0


class Kind(StrEnum):
    """How two words that are not the same pair off, the harmless first."""

    SAME = "same"
    REGIONAL = "regional"
    SLIP = "slip"
    INFLECTED = "inflected"
    SYNONYM = "synonym"


_COST = {Kind.SAME: 0.0, Kind.REGIONAL: 0.1, Kind.SLIP: 0.2, Kind.INFLECTED: 0.3, Kind.SYNONYM: 0.5}
_EMPTY_COST = 1.0


@dataclass(frozen=True, slots=True)
class Difference:
    """What two questions differ in. `left` and `right` are the words that nothing on the other side explains."""

    pairs: tuple[tuple[Word, Word, Kind], ...]
    left: tuple[Word, ...]
    right: tuple[Word, ...]
    moved: int
    kinds: dict[Kind, int]

    @property
    def left_over(self) -> tuple[Word, ...]:
        """Every unexplained word."""
        return self.left + self.right


def difference(one: Question, other: Question, vocabulary: Vocabulary) -> Difference:
    """How the words of two questions pair off in order; words that stand elsewhere pair off afterwards, as moved."""
    mine, theirs = list(one.words), list(other.words)
    pairs, left, right = _aligned(mine, theirs, vocabulary)
    moved = _pair_moved(pairs, left, right, vocabulary)
    kinds = {kind: sum(1 for *_, one_kind in pairs if one_kind is kind) for kind in Kind}
    return Difference(
        pairs=tuple(pairs),
        left=tuple(left),
        right=tuple(right),
        moved=moved,
        kinds=kinds,
    )


def _pair_moved(
    pairs: list[tuple[Word, Word, Kind]], left: list[Word], right: list[Word], vocabulary: Vocabulary
) -> int:
    """Pair off words that stand elsewhere on the other side; how many of them matter where they stand."""
    moved = 0
    for word in list(left):
        same = (other for other in right if kind_of(word, other, vocabulary) is Kind.SAME)
        found = next(same, None)
        if found is not None:
            left.remove(word)
            right.remove(found)
            pairs.append((word, found, Kind.SAME))
            moved += word.text not in lexicon.EMPTY | lexicon.CALENDAR
    return moved


def kind_of(one: Word, other: Word, vocabulary: Vocabulary) -> Kind | None:
    """How two words pair off; None if they do not."""
    mine, theirs = one.text, other.text
    if mine == theirs or mine.replace(".", "") == theirs.replace(".", ""):
        return Kind.SAME if _same_case(one, other, vocabulary) else None
    if lexicon.NUMBERS.get(mine, mine) == lexicon.NUMBERS.get(theirs, theirs):
        return Kind.SAME
    if not (mine.isalpha() and theirs.isalpha()):
        return None
    if is_regional(mine, theirs):
        return Kind.REGIONAL
    named = (one.name or other.name) and not {mine, theirs} & lexicon.CALENDAR
    if not named and is_slip(mine, theirs, vocabulary):
        return Kind.SLIP
    if not named and is_inflected(mine, theirs):
        return Kind.INFLECTED
    return Kind.SYNONYM if not named and _synonymous(mine, theirs) else None


def _synonymous(mine: str, theirs: str) -> bool:
    """Whether they are synonyms, or the same form of synonyms: faster and quicker."""
    if (mine, theirs) in lexicon.SYNONYMS:
        return True
    return any(
        mine.endswith(ending)
        and theirs.endswith(ending)
        and any(
            (one, other) in lexicon.SYNONYMS for one in stems(mine, ending) for other in stems(theirs, ending)
        )
        for ending in ENDINGS
    )


def _same_case(one: Word, other: Word, vocabulary: Vocabulary) -> bool:
    """Whether an acronym in one is not a plain word in the other: US and us, WHO and who."""
    if one.acronym == other.acronym:
        return True
    return one.text not in lexicon.RELATIONS and vocabulary.count(one.text) == 0


def _aligned(
    mine: list[Word], theirs: list[Word], vocabulary: Vocabulary
) -> tuple[list[tuple[Word, Word, Kind]], list[Word], list[Word]]:
    """The cheapest pairing in order (Needleman and Wunsch's alignment), and what is left on each side."""
    kinds = {
        (at, to): kind
        for at, one in enumerate(mine)
        for to, other in enumerate(theirs)
        if (kind := kind_of(one, other, vocabulary)) is not None
    }
    costs = [[0.0] * (len(theirs) + 1) for _ in range(len(mine) + 1)]
    for at in range(len(mine), -1, -1):
        for to in range(len(theirs), -1, -1):
            costs[at][to] = min(_options(costs, kinds, mine, theirs, at, to), default=(0.0, ""))[0]
    pairs: list[tuple[Word, Word, Kind]] = []
    left: list[Word] = []
    right: list[Word] = []
    at = to = 0
    while at < len(mine) or to < len(theirs):
        _, step = min(_options(costs, kinds, mine, theirs, at, to))
        if step == "pair":
            pairs.append((mine[at], theirs[to], kinds[at, to]))
        elif step == "right":
            right.append(theirs[to])
        else:
            left.append(mine[at])
        at += step != "right"
        to += step != "left"
    return pairs, left, right


def _options(
    costs: list[list[float]],
    kinds: dict[tuple[int, int], Kind],
    mine: list[Word],
    theirs: list[Word],
    at: int,
    to: int,
) -> list[tuple[float, str]]:
    """What may come next in an alignment, and the cost of all that follows it."""
    options = []
    if (at, to) in kinds:
        options.append((_COST[kinds[at, to]] + costs[at + 1][to + 1], "pair"))
    if at < len(mine):
        options.append((_skip(mine[at]) + costs[at + 1][to], "left"))
    if to < len(theirs):
        options.append((_skip(theirs[to]) + costs[at][to + 1], "right"))
    return options


def _skip(word: Word) -> float:
    return _EMPTY_COST if word.text in lexicon.EMPTY else LEFT_OVER
