"""Tables: the states of sessions and streams, and what each admits. The diagrams in specs/ come from here.

Nothing here acts; `session` and `streams` look their moves up.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from meshwire.errors import LocalWireError
from meshwire.messages import NOTICES, REPLIES
from meshwire.numbers import FrameType


class SessionState(StrEnum):
    """Where a session is."""

    HANDSHAKE = "handshake"  # Noise messages pass
    INTRODUCED = "introduced"  # the other end has proved its key; we have not answered yet
    JOINING = "joining"  # one end has no certificate yet
    OPEN = "open"
    CLOSED = "closed"


class SessionStep(StrEnum):
    """What moves a session on."""

    INTRODUCE = "introduce"
    ADMIT = "admit"
    ADMIT_JOINING = "admit joining"
    PROMOTE = "promote"
    CLOSE = "close"


class StreamState(StrEnum):
    """Where a stream is."""

    OPEN = "open"
    LOCAL_ENDED = "local ended"  # we have sent END
    REMOTE_ENDED = "remote ended"  # they have sent END
    CLOSED = "closed"


class StreamStep(StrEnum):
    """What moves a stream on."""

    SEND_END = "send END"
    RECEIVE_END = "receive END"
    RESET = "RESET"


SESSION_MOVES: dict[tuple[SessionState, SessionStep], SessionState] = {
    (SessionState.HANDSHAKE, SessionStep.INTRODUCE): SessionState.INTRODUCED,
    (SessionState.HANDSHAKE, SessionStep.CLOSE): SessionState.CLOSED,
    (SessionState.INTRODUCED, SessionStep.ADMIT): SessionState.OPEN,
    (SessionState.INTRODUCED, SessionStep.ADMIT_JOINING): SessionState.JOINING,
    (SessionState.INTRODUCED, SessionStep.CLOSE): SessionState.CLOSED,
    (SessionState.JOINING, SessionStep.PROMOTE): SessionState.OPEN,
    (SessionState.JOINING, SessionStep.CLOSE): SessionState.CLOSED,
    (SessionState.OPEN, SessionStep.CLOSE): SessionState.CLOSED,
}

STREAM_MOVES: dict[tuple[StreamState, StreamStep], StreamState] = {
    (StreamState.OPEN, StreamStep.SEND_END): StreamState.LOCAL_ENDED,
    (StreamState.OPEN, StreamStep.RECEIVE_END): StreamState.REMOTE_ENDED,
    (StreamState.OPEN, StreamStep.RESET): StreamState.CLOSED,
    (StreamState.LOCAL_ENDED, StreamStep.RECEIVE_END): StreamState.CLOSED,
    (StreamState.LOCAL_ENDED, StreamStep.RESET): StreamState.CLOSED,
    (StreamState.REMOTE_ENDED, StreamStep.SEND_END): StreamState.CLOSED,
    (StreamState.REMOTE_ENDED, StreamStep.RESET): StreamState.CLOSED,
}

ADMITS: dict[SessionState, frozenset[FrameType]] = {
    SessionState.HANDSHAKE: frozenset(),
    SessionState.INTRODUCED: frozenset(),
    SessionState.JOINING: frozenset(
        {FrameType.JOIN, FrameType.CERT, FrameType.PING, FrameType.PONG, FrameType.GOAWAY}
    ),
    SessionState.OPEN: frozenset(NOTICES) | frozenset(REPLIES) | {FrameType.DATA},
    SessionState.CLOSED: frozenset(),
}
"""The frame types that each state admits, in both directions. Handshake messages are not frames."""

State = TypeVar("State", bound=StrEnum)
Step = TypeVar("Step", bound=StrEnum)


def move(moves: Mapping[tuple[State, Step], State], state: State, step: Step) -> State:
    """The state after the step; raises LocalWireError for a step that the table does not have."""
    try:
        return moves[state, step]
    except KeyError:
        raise LocalWireError(f"{step!s} makes no sense when {state!s}") from None


def diagram(moves: Mapping[tuple[State, Step], State], start: State) -> str:
    """The table as a mermaid state diagram, as the specs show it."""
    lines = ["stateDiagram-v2", f"    [*] --> {_label(start)}"]
    lines += [f"    {_label(a)} --> {_label(b)}: {step!s}" for (a, step), b in moves.items()]
    lines += [f"    {_label(end)} --> [*]" for end in _ends(moves)]
    return "\n".join(lines)


def _label(state: StrEnum) -> str:
    return str(state).replace(" ", "_").upper()


def _ends(moves: Mapping[tuple[State, Step], State]) -> list[State]:
    sources = {source for source, _ in moves}
    return [state for state in dict.fromkeys(moves.values()) if state not in sources]
