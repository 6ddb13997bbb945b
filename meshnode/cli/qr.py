"""A QR code drawn with half blocks, two rows a line. It knows no terminal but the colours that one obeys."""

from __future__ import annotations

from collections.abc import Sequence

from meshnode.qr import modules

BORDER = 4  # modules of quiet around the code, as the standard wants
BLOCKS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
# Both colours are named, so that dark and light terminals show the same; the blocks are the light modules.
BEGIN, END = "\x1b[38;5;231;48;5;16m", "\x1b[0m"


def draw(text: str, *, colours: bool) -> list[str]:
    """The lines of a code that says `text`. Raises BadRequest when no code is large enough for it.

    Without colours the blocks are meant to be seen light on dark.
    """
    lines = [_line(upper, lower) for upper, lower in _pairs(_light(text))]
    return [f"{BEGIN}{line}{END}" for line in lines] if colours else lines


def _light(text: str) -> list[list[bool]]:
    """The modules row by row, with their border; True is light."""
    return [[not dark for dark in row] for row in modules(text, border=BORDER)]


def _pairs(rows: Sequence[Sequence[bool]]) -> list[tuple[Sequence[bool], Sequence[bool]]]:
    """Two rows at a time; below an odd last one there is nothing, which is drawn dark."""
    below = [*rows[1::2], [False] * len(rows[0])]
    return list(zip(rows[::2], below, strict=False))


def _line(upper: Sequence[bool], lower: Sequence[bool]) -> str:
    return "".join(BLOCKS[pair] for pair in zip(upper, lower, strict=True))
