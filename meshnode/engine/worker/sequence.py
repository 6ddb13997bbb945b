"""One run inside the worker: its tokens, how far they are computed, and what of its answer may leave."""

from meshnode.engine.worker.answer import Answer, Release
from meshnode.engine.worker.calls import Style
from meshnode.engine.worker.frames import Run
from meshnode.engine.worker.llama import Model
from meshnode.engine.worker.sampling import Sampler
from meshnode.terms import FinishReason

EXPECTED_ANSWER_TOKENS = 256  # reserved at admission; a longer answer may have to wait for cells later
UNPLACED = -1


class Sequence:
    """A run from admission to its end.

    `tokens` holds prompt and answer, `computed` how many of them are in the cache: one less than all while
    answering, fewer while the prompt is read. `cached` is how many of the prompt's were there before it came.
    `limit` is the most answer tokens allowed, those included that the job resumes with. `place` is its
    sequence in the cache, once it has begun.
    """

    def __init__(self, run: Run, prompt: list[int], limit: int, model: Model, style: Style) -> None:
        resumed = run.job.resume
        self.number = run.number
        self.scope = run.scope
        self.tokens = [*prompt, *resumed]
        self.prompt_tokens = len(prompt)
        self.computed = 0
        self.cached = 0
        self.place = UNPLACED
        self.row = -1  # of the batch, where its logits will be; -1 when none are due
        self.batched = 0
        self._begun = False
        self._limit = limit
        self._sampler = Sampler(run.job, model, style=style, limit=limit)
        self._answer = Answer(run.job, style, self._sampler.markers)
        try:
            self._sampler.replay(resumed)
            self._answer.replay(resumed, [model.piece(token) for token in resumed])
        except BaseException:
            self.free()
            raise

    @property
    def answered(self) -> int:
        """Answer tokens written so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def left(self) -> int:
        """Tokens that are known and not computed yet."""
        return len(self.tokens) - self.computed

    @property
    def reading(self) -> bool:
        """Whether part of its prompt (or, resumed or moved out, of its answer) is still to be computed."""
        return self.left > 1

    @property
    def growth(self) -> int:
        """Cells that it is expected to need beside those it has."""
        return self.left + min(self._limit - self.answered, EXPECTED_ANSWER_TOKENS)

    def begin(self, place: int, computed: int) -> None:
        """It has a sequence in the cache, which holds its first tokens already."""
        if not self._begun:
            self.cached = min(computed, self.prompt_tokens)
        self._begun = True
        self.place, self.computed = place, computed

    def restart(self) -> None:
        """It has nothing in the cache any more, and will be computed again."""
        self.place, self.computed = UNPLACED, 0

    def draw(self) -> int:
        """The next token."""
        return self._sampler.draw(self.row)

    def accept(self, token: int, piece: bytes) -> Release | None:
        """Take a drawn token into the answer; what may leave now."""
        self.tokens.append(token)
        return self._answer.push(token, piece, self._sampler.likelihood(self.row, token))

    def ended(self) -> FinishReason | None:
        """Why the answer ends after the last token, or None when it goes on."""
        if self._answer.stopped:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.answered >= self._limit else None

    def last(self) -> Release | None:
        """What was held back until the end; nothing once a stop string was met."""
        return self._answer.flush()

    def reason(self, default: FinishReason) -> FinishReason:
        """Why the answer ended, after `last`. EngineFailed when it is not what was promised."""
        return self._answer.reason(default)

    def free(self) -> None:
        """Give the sampler back."""
        self._sampler.free()
