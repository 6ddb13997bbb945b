"""A text as a QR code, as rows that a page can draw. It knows nothing of what the text is."""

from typing import Any, cast


def rows_of(text: str) -> tuple[str, ...]:
    """The code's rows from the top, one character a module, `1` for a dark one; without the quiet zone around it."""
    import segno  # on first use: most nodes never draw one

    code = cast("Any", segno).make(text, micro=False, error="l")
    return tuple("".join("1" if dark else "0" for dark in row) for row in code.matrix)
