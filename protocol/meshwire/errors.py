"""The two kinds of wire error: we erred, or they erred. It knows nothing of who catches them."""

from enum import IntEnum


class CloseCode(IntEnum):
    """Why a session was closed; travels in GOAWAY. The numbers are fixed."""

    PROTOCOL = 1
    TOO_LARGE = 2
    BAD_SIGNATURE = 3
    DECRYPT = 4
    WRONG_MESH = 5
    NOT_MEMBER = 6
    CREDIT = 7
    TIMEOUT = 8
    GOING_AWAY = 9
    TOO_MANY = 10
    REVOKED = 11
    CLOCK_SKEW = 12
    WRONG_VERSION = 13
    SELF = 14
    DUPLICATE = 15


class WireError(Exception):
    """Either kind of wire error."""


class LocalWireError(WireError):
    """This side used the library wrongly: a bug here, never something that the other side can cause."""


class RemoteWireError(WireError):
    """The other side broke the protocol; `code` is what it is told, the message is for our own log."""

    def __init__(self, message: str, code: CloseCode = CloseCode.PROTOCOL) -> None:
        super().__init__(message)
        self.code = code
