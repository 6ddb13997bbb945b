"""A text as a QR code, as rows of modules; how they are drawn is for the caller. Pure."""

from __future__ import annotations

from meshnode.errors import BadRequest


def modules(text: str, *, border: int = 0) -> list[list[bool]]:
    """The code row by row, with so many modules of quiet around it; True is dark.

    Raises BadRequest when no code is large enough for the text.
    """
    import segno  # on first use: most processes never draw one

    try:
        code = segno.make_qr(text, error="l", boost_error=False)
    except segno.DataOverflowError as error:
        raise BadRequest(f"No QR code is large enough for {len(text)} characters.") from error
    return [[bool(module) for module in row] for row in code.matrix_iter(border=border)]
