"""A whole answer, and a conversation that grows by such answers. It knows neither threads nor nodes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshnode.terms import Answer, Emitted, End, FinishReason, Piece, ToolCall, Turn, Usage

Prompt = str | Sequence[Turn | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer from its first piece to its end; `answer` says who served it, `usage` counts tokens."""

    text: str
    answer: Answer
    reason: FinishReason
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()


def reply_of(answer: Answer, items: Iterable[Emitted]) -> Reply | None:
    """The reply that these items make; None without an end."""
    pieces, end = [], None
    for item in items:
        if isinstance(item, Piece):
            pieces.append(item)
        elif isinstance(item, End):
            end = item
    if end is None:
        return None
    calls = tuple(call for piece in pieces for call in piece.calls)
    return Reply("".join(piece.text for piece in pieces), answer, end.reason, end.usage, calls)


class Conversation:
    """What was said so far: `turns`, which only whole answers are added to."""

    def __init__(self, system: str = "") -> None:
        self.turns: tuple[Turn, ...] = (Turn(role="system", content=system),) if system else ()

    def asking(self, text: str) -> tuple[Turn, ...]:
        """The turns to send, with one more of the user's."""
        return (*self.turns, Turn(role="user", content=text))

    def answered(self, asked: tuple[Turn, ...], reply: Reply) -> None:
        """Go on from here: the answer to these turns has come to its end."""
        said = Turn(role="assistant", content=reply.text, tool_calls=reply.tool_calls)
        self.turns = (*asked, said)
