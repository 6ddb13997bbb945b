"""One run inside the worker: its tokens, how far they are computed, and what of its answer may leave."""

from meshnode.engine.holdback import Holdback, Release
from meshnode.engine.worker.frames import Run
from meshnode.engine.worker.sampling import Sampler
from meshnode.terms import FinishReason

EXPECTED_ANSWER_TOKENS = 256  # reserved at admission; a longer answer may have to wait for cells later


class Sequence:
    """A run from admission to its end.

    `tokens` holds prompt and answer, `computed` how many of them are in the cache: one less than all while
    answering, fewer while the prompt is read. `limit` is the most answer tokens allowed.
    """

    def __init__(self, run: Run, prompt: list[int], limit: int, vocabulary: int) -> None:
        self.number = run.number
        self.tokens = prompt
        self.prompt_tokens = len(prompt)
        self.computed = 0
        self.slot = -1
        self.row = -1  # of the batch, where its logits will be; -1 when none are due
        self.batched = 0
        self._limit = limit
        self._sampler = Sampler(run.job.sampling, vocabulary)
        self._holdback = Holdback(run.job.sampling.stop)

    @property
    def answered(self) -> int:
        """Answer tokens written so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def reading(self) -> bool:
        """Whether part of its prompt (or, after it was moved out, of its answer) is still to be computed."""
        return self.computed < len(self.tokens) - 1

    @property
    def reserved(self) -> int:
        """Cells it is expected to need in all."""
        return len(self.tokens) + min(self._limit - self.answered, EXPECTED_ANSWER_TOKENS)

    def draw(self, context: object) -> int:
        """The next token."""
        return self._sampler.draw(context, self.row)

    def accept(self, token: int, piece: bytes) -> Release | None:
        """Take a drawn token into the answer; what may leave now."""
        self.tokens.append(token)
        return self._holdback.push(token, piece)

    def ended(self) -> FinishReason | None:
        """Why the answer ends after the token just accepted, or None when it goes on."""
        if self._holdback.stopped:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.answered >= self._limit else None

    def last(self) -> Release | None:
        """What was held back until the end; nothing once a stop string was met."""
        return None if self._holdback.stopped else self._holdback.flush()

    def free(self) -> None:
        """Give the sampler back."""
        self._sampler.free()
