"""Close codes and refusals, which the wire knows, as errors of the mesh, and back. Tables only."""

from meshnode.errors import (
    Busy,
    ClockSkew,
    MeshError,
    NotAllowed,
    Revoked,
    Unreachable,
    WrongMesh,
    WrongProtocol,
    from_code,
)
from meshwire.errors import CloseCode
from meshwire.events import Closed
from meshwire.messages import Refusal

WORD_MAX, SENTENCE_MAX = 256, 2048  # what a Refusal carries

_ERROR_OF: dict[CloseCode, type[MeshError]] = {
    CloseCode.WRONG_MESH: WrongMesh,
    CloseCode.NOT_MEMBER: NotAllowed,
    CloseCode.REVOKED: Revoked,
    CloseCode.CLOCK_SKEW: ClockSkew,
    CloseCode.WRONG_VERSION: WrongProtocol,
    CloseCode.TOO_MANY: Busy,
}


def error_of(code: CloseCode, message: str) -> MeshError:
    """A close code in the mesh's own words."""
    return _ERROR_OF.get(code, Unreachable)(message)


def code_of(error: MeshError) -> CloseCode:
    """The close code that says it best."""
    codes = (code for code, kind in _ERROR_OF.items() if isinstance(error, kind))
    return next(codes, CloseCode.NOT_MEMBER)


def error_from(refusal: Refusal) -> MeshError:
    """The error that a request was refused with, its own type again."""
    return from_code(refusal.code, refusal.message, hint=refusal.hint, retry_after_s=refusal.retry_after_s)


def refusal_of(error: MeshError) -> Refusal:
    """An error as it travels; what is too long is cut, for the other end would close the link over it."""
    return Refusal(
        error.code[:WORD_MAX], error.message[:SENTENCE_MAX], error.hint[:SENTENCE_MAX], error.retry_after_s
    )


def turned_away(remote: str, closed: Closed) -> str:
    """What to say of an end that closed instead of admitting us."""
    return f"{remote} turned us away: {closed.reason or closed.code.name.lower()}"
