"""What has come of one choice of an answer, for whoever needs it whole. Pure."""

from meshnode.terms import End, Piece, TokenLogprob, ToolCall


class Gathered:
    """The text, calls and log-probabilities so far; `end` once it is complete."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.calls: list[ToolCall] = []
        self.logprobs: list[TokenLogprob] = []
        self.end: End | None = None

    @property
    def text(self) -> str:
        """All of the text."""
        return "".join(self._texts)

    def add(self, piece: Piece) -> int:
        """Take a piece; how many characters it has."""
        self._texts.append(piece.text)
        self.calls += piece.calls
        self.logprobs += piece.logprobs
        return len(piece.text) + sum(len(call.arguments) for call in piece.calls)
