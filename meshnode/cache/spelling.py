"""Whether one word is another one, written wrongly or in the other country's way. Pure.

A word counts as a slip only if it is no word itself: what a dictionary has was meant. Which words there are comes
from a vocabulary that is handed in; without one, nothing is taken for a slip.
"""

from typing import Protocol

COMMON = 100  # a word that is met so often in pyspellchecker's 1.6 billion may have been meant
LETTERS_FOR_ONE, LETTERS_FOR_TWO = 4, 8
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
VOWELS = frozenset("aeiouy")
_ALIKE_PAIRS = frozenset({"ck", "cs", "sz", "fv", "gj", "mn", "kq", "wv"})


class Vocabulary(Protocol):
    """The words of a language."""

    def count(self, word: str) -> int:
        """How often a folded word is met; 0 if it is none."""
        ...


class NoVocabulary:
    """Knows no word, so that nothing is taken for a slip."""

    def count(self, word: str) -> int:
        """Never met."""
        return 0


def is_slip(one: str, other: str, vocabulary: Vocabulary) -> bool:
    """Whether exactly one of them is a common word, and the other no word at all but a slip away from it."""
    counts = vocabulary.count(one), vocabulary.count(other)
    if min(counts) > 0 or max(counts) < COMMON:
        return False
    meant, written = (one, other) if counts[0] else (other, one)
    return _one_slip_or_two(meant, written)


def _one_slip_or_two(meant: str, written: str) -> bool:
    if not (meant.isalpha() and written.isalpha()) or meant[0] != written[0]:
        return False
    allowed = 2 if len(meant) >= LETTERS_FOR_TWO else 1 if len(meant) >= LETTERS_FOR_ONE else 0
    return slips(meant, written, allowed) <= allowed


def slips(meant: str, written: str, most: int) -> int:
    """How many slips of hand or ear make one of the other; `most` + 1 if more, or if it takes another kind.

    The slips are those that spelling correction knows best: two letters swapped, a letter left out, doubled or added,
    a vowel for a vowel, a consonant for one that sounds like it, a key for its neighbour (K. Kukich, "Techniques for
    automatically correcting words in text", ACM Computing Surveys 24(4), 1992).
    """
    if not meant or not written:
        return min(len(meant) + len(written), most + 1)
    if meant[0] == written[0]:
        return slips(meant[1:], written[1:], most)
    if most == 0:
        return 1
    best = most + 1
    if meant[:2] == written[1::-1] and len(meant) > 1 and len(written) > 1:
        best = min(best, 1 + slips(meant[2:], written[2:], most - 1))
    if _confusable(meant[0], written[0]):
        best = min(best, 1 + slips(meant[1:], written[1:], most - 1))
    best = min(best, 1 + slips(meant[1:], written, most - 1), 1 + slips(meant, written[1:], most - 1))
    return min(best, most + 1)


def _confusable(one: str, other: str) -> bool:
    if one in VOWELS and other in VOWELS:
        return True
    if one + other in _ALIKE_PAIRS or other + one in _ALIKE_PAIRS:
        return True
    return any(abs(row.find(one) - row.find(other)) == 1 for row in KEYBOARD if one in row and other in row)


# --- British and American ---

_REGIONAL = (
    ("isation", "ization"), ("ising", "izing"), ("ised", "ized"), ("ises", "izes"), ("iser", "izer"), ("ise", "ize"),
    ("yse", "yze"), ("ysed", "yzed"), ("ysing", "yzing"), ("our", "or"), ("ours", "ors"), ("oured", "ored"),
    ("ouring", "oring"), ("ourite", "orite"), ("ourites", "orites"), ("tre", "ter"), ("tres", "ters"), ("bre", "ber"),
    ("ogue", "og"), ("ogues", "ogs"), ("ence", "ense"), ("ences", "enses"), ("lled", "led"), ("lling", "ling"),
    ("ller", "ler"), ("llery", "lery"), ("amme", "am"), ("ammes", "ams"), ("ey", "ay"),
    ("lment", "llment"), ("lments", "llments"), ("lful", "llful"), ("lation", "llation"),
)  # fmt: skip
_REGIONAL_WORDS = frozenset(
    frozenset(pair.split("/"))
    for pair in (
        "tyre/tire", "kerb/curb", "plough/plow", "aluminium/aluminum", "aeroplane/airplane", "jewellery/jewelry",
        "pyjamas/pajamas", "moustache/mustache", "sceptical/skeptical", "anaemia/anemia", "oestrogen/estrogen",
        "paediatric/pediatric", "foetus/fetus", "diarrhoea/diarrhea", "haemorrhage/hemorrhage", "mould/mold",
        "cosy/cozy", "maths/math", "whisky/whiskey", "judgement/judgment", "ageing/aging", "licence/license",
        "defence/defense", "offence/offense", "draught/draft", "storey/story", "speciality/specialty",
    )
)  # fmt: skip


def is_regional(one: str, other: str) -> bool:
    """Whether they are the British and the American spelling of one word."""
    if frozenset((one, other)) in _REGIONAL_WORDS:
        return True
    return any(_swapped(one, other, *endings) or _swapped(other, one, *endings) for endings in _REGIONAL)


def _swapped(british: str, american: str, ours: str, theirs: str) -> bool:
    stem = british.removesuffix(ours)
    return british.endswith(ours) and len(stem) > 1 and american == stem + theirs


# --- Forms of one word ---


def is_inflected(one: str, other: str) -> bool:
    """Whether they are forms of one word by a regular ending: -s, -ed, -ing."""
    short, long = sorted((one, other), key=len)
    return len(short) > 2 and short != long and long in _forms(short)


def _forms(word: str) -> set[str]:
    stems = {word, word.removesuffix("e"), word + word[-1]}
    if word.endswith("y"):
        stems.add(word.removesuffix("y") + "i")
    return {stem + ending for stem in stems for ending in ("s", "es", "ed", "d", "ing")}


ENDINGS = ("est", "er", "ing", "ed", "es", "s")


def stems(word: str, ending: str) -> tuple[str, ...]:
    """What a word with a regular ending may be a form of."""
    stem = word.removesuffix(ending)
    undoubled = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
    return (stem, stem + "e", undoubled)
