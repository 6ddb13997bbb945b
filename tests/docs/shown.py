"""Whether a program printed what a page shows, and what stood where the page has `…`.

A line of `…` alone stands for any number of lines; `…` as a word of its own for any words; at the end of a word,
as in `mesh1…`, for the rest of that word, and at the end of a line for the rest of that. What stood there is
remembered under the word as the page has it. How many spaces there are does not count.
"""

import re
from collections.abc import Sequence

ANY = "…"


def pattern_of(shown: Sequence[str]) -> tuple[re.Pattern[str], list[str]]:
    """The pattern of lines that a page shows, and the words that its groups remember, in order."""
    words: list[str] = []
    lines = "".join(_line(line, words) for line in shown if line.strip())
    return re.compile(lines), words


def _line(line: str, words: list[str]) -> str:
    parts = line.split()
    if parts == [ANY]:
        return r"(?:.*\n)*?"
    return " ".join(_word(part, words, last=part is parts[-1]) for part in parts) + r"\n"


def _word(word: str, words: list[str], *, last: bool) -> str:
    if word == ANY:
        return ".*"
    if ANY not in word:
        return re.escape(word)
    words.append(word)
    # Escaped, the sign stays as it is; at the end of a line it takes the rest of that.
    head, tail = (word[:-1], ".*" if last else "[^ ]*") if word.endswith(ANY) else (word, "")
    return f"({re.escape(head).replace(ANY, '[^ ]*?')}{tail})"


def normal(printed: str) -> str:
    """Without empty lines, colours, and spaces that only align."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    lines = (" ".join(line.split()) for line in plain.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


def compare(shown: Sequence[str], printed: str) -> dict[str, str] | None:
    """What the page's words with `…` stood for, or None if something else was printed."""
    pattern, words = pattern_of(shown)
    found = pattern.fullmatch(normal(printed))
    return None if found is None else dict(zip(words, found.groups(), strict=True))
