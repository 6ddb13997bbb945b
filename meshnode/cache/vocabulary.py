"""The English vocabulary of the package `pyspellchecker` (the extra `meshnode[semantic]`), read on first use."""

import structlog

from meshnode.cache.spelling import NoVocabulary, Vocabulary

log = structlog.get_logger("meshnode.cache")
LANGUAGE = "en"


class SpellingVocabulary:
    """Words and their counts, in memory."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts

    def count(self, word: str) -> int:
        """How often a folded word is met; 0 if it is none."""
        return self._counts.get(word, 0)


class LazyVocabulary:
    """The vocabulary, read when the first word is looked up, in whatever thread that happens."""

    def __init__(self) -> None:
        self._read: Vocabulary | None = None

    def count(self, word: str) -> int:
        """How often a folded word is met; 0 if it is none."""
        if self._read is None:
            self._read = english()
        return self._read.count(word)


def english() -> Vocabulary:
    """The vocabulary if the package is there; else one that knows no word, so that no slip is forgiven."""
    try:
        from spellchecker import SpellChecker
    except ImportError:
        log.warning(
            "no vocabulary: slips of spelling are not forgiven", hint="pip install 'meshnode[semantic]'"
        )
        return NoVocabulary()
    frequencies = SpellChecker(language=LANGUAGE).word_frequency
    return SpellingVocabulary(dict(frequencies.dictionary.items()))
