"""The code blocks of every page, and the commands that a block for a terminal shows.

Knows Markdown's fences; does not know what becomes of a block.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
PROMPT = "$ "
TERMINAL = ("console", "sh")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it is, the words after its fence, and what is in it."""

    page: str
    line: int
    words: tuple[str, ...]
    code: str

    @property
    def kind(self) -> str:
        """The language, or nothing."""
        return self.words[0] if self.words else ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """What is typed, over one or more lines, and the lines that the page shows below it."""

    text: str
    shown: tuple[str, ...] = ()


def pages() -> list[str]:
    """Every page for people who use or change the program, by its path in the checkout."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "specs").glob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    return blocks_in(page, (ROOT / page).read_text(encoding="utf-8"))


def blocks_in(page: str, text: str) -> list[Block]:
    """All blocks of a text, in order."""
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, tuple(found["info"].split()), found["code"])
        for found in FENCE.finditer(text)
    ]


def commands_of(block: Block) -> list[Command]:
    """What is typed in a terminal: after `$ ` in a console with what it prints, else each line of a script."""
    if block.kind == "sh":
        return [Command(text) for text in _whole(block.code.splitlines()) if not text.startswith("#")]
    _before, *parts = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
    assert not _before.strip(), f"{block}: a console begins with what is typed, after `$ `"
    return [_with_output(part.splitlines()) for part in parts]


def _with_output(lines: list[str]) -> Command:
    typed, *_ = _whole(lines)
    return Command(typed, tuple(lines[typed.count("\n") + 1 :]))


def _whole(lines: list[str]) -> list[str]:
    """Lines joined where a quote is open or the end is a backslash."""
    whole: list[str] = []
    going_on = False
    for line in lines:
        if going_on:
            whole[-1] += f"\n{line}"
        elif line.strip():
            whole.append(line)
        going_on = bool(whole) and (whole[-1].endswith("\\") or _open_quote(whole[-1]))
    return whole


def _open_quote(text: str) -> bool:
    """Whether a shell would wait for the end of a quotation."""
    quote = ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
    return bool(quote)
