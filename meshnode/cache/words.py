"""A question as a list of words, brought into one form: case, marks, contractions, courtesies, ways of asking.

English is what it knows; of other languages only case, blanks and final marks are folded. Its lists are closed
classes of the language and general usage, no vocabulary of a subject. Pure.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from meshnode.cache.lexicon import word_set

CHARACTERS_MAX = 600  # a longer question is a document, in which one word is easily overlooked
WORDS_MAX = 80
PARSED_KEPT = 4096

_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u2010": "-", "\u2011": "-"})
_TOKEN = re.compile(r"[^\W_]+(?:['.,:][^\W_]+)*|\S")
_SENTENCE_MARKS = frozenset(".,!?;:…-–—")
_QUOTED = re.compile(r'"[^"]*"|\u201c[^\u201d]*\u201d|`[^`]*`')
_POSSESSIVE = "'s"
_WHOSE_S_IS_IS = word_set("what who where when why how that this there here it he she")
_CONTRACTED = {
    "n't": "not", "'re": "are", "'m": "am", "'ll": "will", "'ve": "have", "'d": "would",
}  # fmt: skip
_IRREGULAR = {
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "shan't": "shall not",
    "ain't": "is not",
}
_WITHOUT_MARK = word_set(
    "dont doesnt didnt isnt arent wasnt werent cant couldnt wont wouldnt shouldnt havent hasnt hadnt"
)
_S_WITHOUT_MARK = {f"{word}s": word for word in ("what", "where", "when", "how", "who", "that")}


@dataclass(frozen=True, slots=True)
class Word:
    """One word: folded, and how it stood: `name` if a capital inside the sentence says so, `acronym` if all are."""

    text: str
    name: bool = False
    acronym: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What a text asks: the way of asking, and the words that are left, in order; `literal` is what stands quoted."""

    frame: str
    words: tuple[Word, ...]
    symbols: tuple[str, ...]
    literal: tuple[str, ...]
    legible: bool


@lru_cache(maxsize=PARSED_KEPT)
def parse(text: str) -> Question:
    """The question that a text is; one that is too long, has lines or looks like code is not `legible`."""
    plain = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).strip()
    words, symbols = _words(_unfronted(plain))
    frame, rest = _unframed(_without_courtesies(words))
    legible = len(plain) <= CHARACTERS_MAX and 0 < len(rest) <= WORDS_MAX and "\n" not in plain
    return Question(frame, tuple(rest), tuple(symbols), tuple(_QUOTED.findall(plain)), legible)


_FRONTED = re.compile(
    r"(?P<adjunct>(?:on|at|in|for|to|near|with|from|by|during|after|before|inside|outside|under|as|about|of|within)\s"
    r"[^,.!?;:]*),\s*(?P<question>(?:how|what|where|when|who|which|why|can|could|may|do|does|did|is|are|was|will|would"
    r"|should|am)\s[^,]*?)(?P<marks>[.!?\s]*)",
    re.IGNORECASE,
)


def _unfronted(plain: str) -> str:
    """The sentence with an adjunct that it begins with at its end: "On Mondays, when do you open?"."""
    found = _FRONTED.fullmatch(plain)
    if found is None:
        return plain
    adjunct = found["adjunct"]
    lowered = adjunct if adjunct.isupper() else adjunct[0].lower() + adjunct[1:]
    return f"{found['question']} {lowered}{found['marks']}"


def _words(plain: str) -> tuple[list[Word], list[str]]:
    """The words of a text, and the marks that are no punctuation of a sentence."""
    words: list[Word] = []
    symbols: list[str] = []
    shouted, starts = plain.isupper(), True
    for mark in _TOKEN.findall(plain):
        if not mark[0].isalnum():
            if mark not in _SENTENCE_MARKS and mark not in "'\"\u201c\u201d":
                symbols.append(mark)
            starts = starts or mark in ".!?"
            continue
        words += _expanded(mark, starts=starts, shouted=shouted)
        starts = False
    return words, symbols


def _expanded(token: str, *, starts: bool, shouted: bool) -> list[Word]:
    """A token as the words it stands for: contractions in full, a possessive mark as a word of its own."""
    acronym = not shouted and len(token) > 1 and token.isupper() and not token.isdigit()
    name = not starts and not shouted and token[0].isupper() and token.lower().partition("'")[0] != "i"
    folded = token.casefold()
    spelled = _IRREGULAR.get(folded)
    if spelled is None and folded in _WITHOUT_MARK:
        spelled = "can not" if folded == "cant" else f"{folded[:-2]} not" if folded != "wont" else "will not"
    if spelled is None and folded in _S_WITHOUT_MARK:
        spelled = f"{_S_WITHOUT_MARK[folded]} is"
    if spelled is not None:
        return [Word(part) for part in spelled.split()]
    for ending, full in _CONTRACTED.items():
        if folded.endswith(ending) and len(folded) > len(ending):
            return [Word(folded.removesuffix(ending)), Word(full)]
    if folded.endswith(_POSSESSIVE):
        head = folded.removesuffix(_POSSESSIVE)
        return [Word(head, name), Word("is" if head in _WHOSE_S_IS_IS else _POSSESSIVE)]
    return [Word(folded, name or acronym, acronym)]


# --- Courtesies, which ask for nothing ---

_GREETING = word_set(
    "hi hiya hey hello hallo howdy greetings morning afternoon evening please pls plz kindly sorry"
    " apologies pardon excuse thanks thank thx cheers ta question wondering curious ok okay so well um hmm"
    " quick help bother disturb"
)
_COURTESY = _GREETING | word_set(
    "there all everyone everybody folks team guys sir madam mate dear good nice day a an the my me to you"
    " for but and one just silly stupid dumb daft simple quickly again i am was have got hope is are well"
    " anyone advance in very much many so lot any appreciated would be great if possible know idea does do"
    " can could maybe perhaps your time"
)
"""What a preamble may be made of, if a word of greeting is in it and a question follows at once."""

_LEADS = word_set(
    "how what where when who whom whose which why can could may might do does did is are am was were will"
    " would should shall must have has had"
)
_TELL_ME = tuple(
    tuple(line.split())
    for line in (
        "can you tell me", "could you tell me", "would you tell me", "will you tell me", "can you please tell me",
        "could you please tell me", "please can you tell me", "please could you tell me", "please tell me", "tell me",
        "do you know", "do you happen to know", "i want to know", "i would like to know", "i need to know",
        "i was wondering", "i am wondering", "i wonder", "can i ask", "could i ask", "may i ask", "wondering",
        "any idea", "does anyone know", "let me know", "can you let me know", "could you let me know",
        "please let me know", "i am trying to find out", "can you explain", "could you explain", "please explain",
    )
)  # fmt: skip
_CLOSINGS = tuple(
    tuple(line.split())
    for line in (
        "please", "thanks", "thank you", "many thanks", "thanks in advance", "thank you in advance", "thanks a lot",
        "thank you very much", "thank you so much", "thanks so much", "cheers", "ta", "pls", "plz", "thx", "kindly",
        "thanks for your help", "thank you for your help", "thanks very much", "any help appreciated", "thanks again",
        "any ideas", "if possible", "if you do not mind", "help please", "please help", "please advise",
    )
)  # fmt: skip
PREAMBLE_WORDS_MAX = 8
COURTESY_ROUNDS = 4


def _without_courtesies(words: list[Word]) -> list[Word]:
    for _ in range(COURTESY_ROUNDS):
        before = len(words)
        words = _without_closing(_direct(words[_preamble(words) :]))
        if len(words) == before:
            break
    return words


def _preamble(words: list[Word]) -> int:
    """How many words a question is preceded by that only greet or excuse."""
    texts = [word.text for word in words]
    best = 0
    for length in range(1, min(PREAMBLE_WORDS_MAX, len(texts) - 2) + 1):
        if texts[length - 1] not in _COURTESY:
            break
        if texts[length] in _LEADS | {"i"} and _GREETING & set(texts[:length]):
            best = best or length
    if not best and texts and texts[0] in _GREETING and len(texts) > 2:
        best = 1
    return best


def _without_closing(words: list[Word]) -> list[Word]:
    texts = tuple(word.text for word in words)
    end = max((len(one) for one in _CLOSINGS if texts[len(texts) - len(one) :] == one), default=0)
    return words[: len(words) - end] if end < len(words) else words


def _direct(words: list[Word]) -> list[Word]:
    """A question asked directly that was wrapped: "tell me where it is" is "where is it"."""
    texts = tuple(word.text for word in words)
    wrapped = max((len(one) for one in _TELL_ME if texts[: len(one)] == one), default=0)
    rest = words[wrapped:]
    if not wrapped or len(rest) < 3:
        return words
    if rest[0].text in ("if", "whether") and rest[1].text in ("i", "you", "we", "they"):
        return [Word("do"), *rest[1:]]
    if rest[0].text in ("where", "what", "who", "when", "why", "how") and rest[-1].text in ("is", "are"):
        return [rest[0], rest[-1], *rest[1:-1]]
    return rest


# --- Ways of asking the same ---

_FRAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    name: tuple(tuple(line.split()) for line in lines)
    for name, lines in {
        "how": (
            "how do i", "how can i", "how could i", "how would i", "how to", "how do you", "how can you", "how do we",
            "how can we", "how does one", "how can one", "how might i", "how i can", "how i could",
            "how do i go about",
            "what is the best way to", "what is the way to", "what is the easiest way to",
            "what is the right way to", "what do i do to", "what do i need to do to", "what should i do to",
            "how would you", "how should i go about", "how am i able to", "how is it possible to", "how i",
        ),
        "can": (
            "can i", "could i", "may i", "is it possible to", "am i able to", "is it possible for me to",
            "would it be possible to", "would i be able to", "can you", "could you",
        ),
        "where": ("where is", "where are", "where can i find", "where do i find", "where could i find",
                  "where would i find", "where will i find", "where to find"),
        "do-you-have": ("do you have", "have you got", "do you have got", "do you guys have"),
        "what": ("what is", "what are", "what was", "what were"),
    }.items()
}  # fmt: skip
_TENSED = {"what was": "what-was", "what were": "what-was", "can you": "can-you", "could you": "can-you"}


def _unframed(words: list[Word]) -> tuple[str, list[Word]]:
    """The way of asking that a question begins with, and what it asks about."""
    texts = tuple(word.text for word in words)
    fitting = [
        (len(lead), name, lead)
        for name, leads in _FRAMES.items()
        for lead in leads
        if texts[: len(lead)] == lead and len(lead) < len(texts)
    ]
    if not fitting:
        return "", words
    length, name, lead = max(fitting)
    return _TENSED.get(" ".join(lead), name), words[length:]
