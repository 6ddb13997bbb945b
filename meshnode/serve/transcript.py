"""What a check needs of an answer from another node, noted while it passes by: the job as it was sent, and the ids.

In memory only, and not beyond the end of the check. It decides nothing.
"""

from collections.abc import Callable

from meshnode.terms import Candidate, Emitted, End, Feature, Job, Piece

IDS_MAX = 4096  # of an answer; the rest of a longer one is not checked
BARE_MAX = 256  # characters that may come without ids: what a stop string has cut off a token, and no more


class Transcript:
    """One answer; `on_end` is called with it when it has come to its end."""

    def __init__(self, candidate: Candidate, job: Job, on_end: Callable[["Transcript"], None]) -> None:
        self.candidate = candidate
        self.job = job
        self.ids: list[int] = []
        self.text = ""
        self._on_end = on_end
        self._bare = 0

    @property
    def key(self) -> tuple[bytes, bytes]:
        """The node, and the digest of the weights that it claims."""
        return self.candidate.node, self.candidate.card.digest

    @property
    def evades(self) -> bool:
        """Whether text came without the ids that the node said it would send."""
        promised = Feature.TOKEN_IDS in self.candidate.card.features
        return promised and not self.job.resume and self._bare > BARE_MAX

    def take(self, emitted: Emitted) -> None:
        """The next item of the answer."""
        if isinstance(emitted, Piece) and len(self.ids) < IDS_MAX:
            self.ids += emitted.ids
            self.text += emitted.text
            self._bare += 0 if emitted.ids else len(emitted.text)
        elif isinstance(emitted, End):
            self._on_end(self)
