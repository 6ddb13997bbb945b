"""Spot checks in the loop: answers from elsewhere, read and drawn again while nobody else wants to compute.

One at a time, in steps as short as a prompt's. Whatever else comes ends it at once, for a check is worth nobody's
waiting, and nothing of it stays in the cache.
"""

import codecs

from meshnode.engine.worker.cache import Cache
from meshnode.engine.worker.frames import Check, Checked
from meshnode.engine.worker.llama import ABORTED, CHUNK_TOKENS, Batch, Model
from meshnode.engine.worker.redraw import Redraw
from meshnode.engine.worker.template import Template
from meshnode.errors import MeshError
from meshnode.terms import Recheck, Redrawn, can_be_redrawn

IMPOSSIBLE = -9999.0  # a log-probability, as in OpenAI's answers
ROWS = 16  # whose logits one step gives: llama.cpp has room for one a sequence, and 262,000 tokens are 1 MB a row
NO_TOKEN = Redrawn(0, 0.0, IMPOSSIBLE, 1.0)  # where ids stand that cannot be what was written


class Rechecking:
    """The check that is under way, if there is one."""

    def __init__(self, model: Model, template: Template, cache: Cache) -> None:
        self._model = model
        self._template = template
        self._cache = cache
        self._rows = min(ROWS, model.sequences)
        self._under_way: _Answer | None = None

    def __bool__(self) -> bool:
        return self._under_way is not None

    def begin(self, command: Check) -> Checked | None:
        """Take a check in; or what to say where another is under way, or this one cannot be made."""
        if self._under_way is not None:
            return Checked(command.number)
        check = command.check
        dated = self._template.dated and not check.job.is_text
        if dated or not can_be_redrawn(check.job) or not 0 <= check.start < len(check.ids):
            return Checked(command.number)
        if not self._may_spell(check):
            return Checked(command.number, (NO_TOKEN,) * (len(check.ids) - check.start))
        try:
            self._under_way = self._read(command)
        except MeshError:
            self._under_way = None
        return None if self._under_way is not None else Checked(command.number)

    def step(self) -> Checked | None:
        """Read some more of it; what was found, after the last step."""
        answer = self._under_way
        assert answer is not None
        batch = self._model.new_batch()
        rows = answer.fill(batch, self._rows)
        status = self._model.decode(batch) if self._cache.make_room(len(batch)) else ABORTED
        if status:
            return self.give_up()
        self._cache.extend(answer.place, answer.tokens[answer.computed : answer.computed + len(batch)])
        answer.advance(len(batch), rows)
        return self._end(tuple(answer.drawn)) if answer.done else None

    def cancel(self, number: int) -> None:
        """Nobody waits for this one any more."""
        if self._under_way is not None and self._under_way.number == number:
            self._end(())

    def give_up(self) -> Checked:
        """Somebody wants to compute, or it cannot be done."""
        return self._end(())

    def _may_spell(self, check: Recheck) -> bool:
        """Whether the ids are of this model's vocabulary, and the text that came with them begins as they do."""
        if not all(0 <= token < self._model.vocabulary for token in check.ids):
            return False
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        spelled = decoder.decode(b"".join(map(self._model.piece, check.ids)))
        return not check.text or check.text.startswith(spelled)

    def _read(self, command: Check) -> "_Answer | None":
        """The check in tokens; None where it does not fit. Raises BadRequest for what the template refuses."""
        check = command.check
        prompt = self._model.tokens(self._template.render(check.job))
        tokens = [*prompt, *check.ids]
        if not prompt or len(tokens) > self._model.context:
            return None
        redraw = Redraw(check, self._model, self._template.style)
        place, _ = self._cache.take(b"", tokens)
        return _Answer(command.number, place, tokens, len(prompt) + check.start, redraw)

    def _end(self, places: tuple[Redrawn, ...]) -> Checked:
        answer, self._under_way = self._under_way, None
        assert answer is not None
        self._cache.drop(answer.place)
        answer.redraw.free()
        return Checked(answer.number, places)


class _Answer:
    """One answer as it is read: the tokens before `first` are only read, each later one is drawn again."""

    def __init__(self, number: int, place: int, tokens: list[int], first: int, redraw: Redraw) -> None:
        self.number = number
        self.place = place
        self.tokens = tokens
        self.redraw = redraw
        self.computed = 0
        self.drawn: list[Redrawn] = []
        self._first = first

    @property
    def done(self) -> bool:
        """Whether every place was drawn again: the last token itself need not be computed for that."""
        return self.computed >= len(self.tokens) - 1

    def fill(self, batch: Batch, most_rows: int) -> list[int]:
        """Put the next tokens into a batch; the rows of those after which something is to be drawn, in order."""
        start = self.computed
        if start < self._first - 1:
            batch.add(
                self.place,
                start,
                self.tokens[start : min(start + CHUNK_TOKENS, self._first - 1)],
                last_logits=False,
            )
            return []
        end = min(start + most_rows, len(self.tokens) - 1)
        return [
            batch.add(self.place, at, self.tokens[at : at + 1], last_logits=True) for at in range(start, end)
        ]

    def advance(self, count: int, rows: list[int]) -> None:
        """A step has computed so many; draw from its rows."""
        for row, at in zip(rows, range(self.computed, self.computed + count), strict=False):
            self.drawn.append(self.redraw.at(row, self.tokens[at + 1]))
        self.computed += count
