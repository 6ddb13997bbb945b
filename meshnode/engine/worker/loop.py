"""The batched loop: commands, admission, one step of computing for every run at once, events.

Each step computes one token for every run that is answering and a chunk of prompts beside them, so that
nobody waits for anybody's long prompt. Runs are admitted by cells of the key-value cache; if answers grow
beyond what was reserved, the youngest run is moved out and computed again later, and nobody fails. It knows
neither processes nor pipes: commands come from a callable, events go to one.
"""

from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items

from meshnode.engine.holdback import Release
from meshnode.engine.worker.frames import (
    Alive,
    AnyCommand,
    Cancel,
    Ended,
    Event,
    Open,
    Prefilled,
    Refused,
    Run,
    Started,
    Threads,
    Written,
)
from meshnode.engine.worker.llama import CHUNK_TOKENS, Batch, Model
from meshnode.engine.worker.sequence import Sequence
from meshnode.engine.worker.template import Template
from meshnode.errors import BadRequest, ContextExceeded, MeshError
from meshnode.terms import FinishReason

DECODED, NO_CELLS = 0, 1


class DecodeError(Exception):
    """llama.cpp broke in the middle of a step; only a new process can be trusted."""


class Loop:
    """The runs of one model. `commands(wait)` gives what has come, waiting for something if told so."""

    def __init__(
        self,
        model: Model,
        template: Template,
        *,
        commands: Callable[[bool], Iterable[AnyCommand]],
        emit: Callable[[Items[Event]], None],
    ) -> None:
        self._model = model
        self._template = template
        self._commands = commands
        self._emit = emit
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []  # oldest first
        self._free_slots = list(range(model.slots))
        self._events: list[Event] = []

    def run(self) -> None:
        """Work for ever; the process ends when its standard input does."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Take commands, which are waited for when there is nothing else to do, and compute one step."""
        for command in self._commands(not self._active and not self._waiting):
            self._obey(command)
        self._admit()
        if self._active:
            self._step()
            if not self._events:
                self._events.append(Alive())
        if self._events:
            self._emit(self._events)
            self._events = []

    def _obey(self, command: AnyCommand) -> None:
        match command:
            case Run():
                self._take(command)
            case Cancel(number):
                self._cancel(number)
            case Threads(count):
                self._model.set_threads(max(1, count))
            case Open():
                self._events.append(Refused(0, "invalid_request", "a model is already open"))

    def _take(self, run: Run) -> None:
        try:
            prompt = self._model.tokens(self._template.render(run.job.turns))
            self._check_fits(len(prompt), run.job.sampling.max_tokens)
        except MeshError as error:
            self._events.append(Refused(run.number, error.code, error.message, error.hint, error.param))
            return
        room = self._model.context - len(prompt)
        limit = min(run.job.sampling.max_tokens or room, room)
        self._waiting.append(Sequence(run, prompt, limit, self._model.vocabulary))
        self._events.append(Started(run.number, len(prompt)))

    def _check_fits(self, counted: int, answer: int) -> None:
        limit = self._model.context
        if not counted:
            raise BadRequest("the messages make an empty prompt", param="messages")
        if counted + max(answer, 1) <= limit:
            return
        asked = f" and {answer} more are asked for as the answer" if answer else ""
        raise ContextExceeded(
            f"the prompt is {counted} tokens{asked}; the model's context is {limit} tokens",
            hint="Shorten the messages, or ask for a shorter answer.",
            param="messages",
        )

    def _cancel(self, number: int) -> None:
        for sequence in [*self._active, *self._waiting]:
            if sequence.number == number:
                self._leave(sequence)

    def _admit(self) -> None:
        while self._waiting and self._free_slots and self._fits(self._waiting[0]):
            sequence = self._waiting.popleft()
            sequence.slot = self._free_slots.pop()
            self._active.append(sequence)

    def _fits(self, sequence: Sequence) -> bool:
        reserved = sum(active.reserved for active in self._active)
        return not self._active or reserved + sequence.reserved <= self._model.cells

    def _step(self) -> None:
        batch = self._fill()
        used = sum(sequence.computed for sequence in self._active)
        status = NO_CELLS if used + len(batch) > self._model.cells else self._model.decode(batch)
        if status == DECODED:
            self._advance()
        elif status == NO_CELLS and len(self._active) > 1:
            self._move_out(self._active[-1])
        else:
            raise DecodeError(f"llama_decode returned {status} for {len(batch)} tokens")

    def _fill(self) -> Batch:
        """One token for each run that is answering, then prompts, the oldest first."""
        batch = self._model.new_batch()
        room = CHUNK_TOKENS
        for sequence in self._active:
            left = len(sequence.tokens) - sequence.computed
            take = min(left, room) if sequence.reading else left
            room -= take if sequence.reading else 0
            self._add(batch, sequence, take, complete=take == left)
        return batch

    def _add(self, batch: Batch, sequence: Sequence, take: int, *, complete: bool) -> None:
        sequence.batched, sequence.row = take, -1
        if not take:
            return
        start = sequence.computed
        row = batch.add(sequence.slot, start, sequence.tokens[start : start + take], last_logits=complete)
        if complete:
            sequence.row = row

    def _advance(self) -> None:
        for sequence in list(self._active):
            was_reading = sequence.reading
            sequence.computed += sequence.batched
            if was_reading and sequence.batched and not sequence.answered:
                self._events.append(Prefilled(sequence.number, sequence.computed, sequence.prompt_tokens))
            if sequence.row >= 0:
                self._draw(sequence)

    def _draw(self, sequence: Sequence) -> None:
        token = sequence.draw(self._model.handle)
        if self._model.ends(token):
            self._end(sequence, FinishReason.STOP)
            return
        self._write(sequence, sequence.accept(token, self._model.piece(token)))
        if reason := sequence.ended():
            self._end(sequence, reason)

    def _write(self, sequence: Sequence, release: Release | None) -> None:
        if release:
            self._events.append(Written(sequence.number, *release))

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        self._write(sequence, sequence.last())
        self._events.append(Ended(sequence.number, reason, sequence.prompt_tokens, sequence.answered))
        self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        if sequence in self._active:
            self._vacate(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.free()

    def _move_out(self, sequence: Sequence) -> None:
        """Back to the head of the queue; its tokens are kept and will be computed again."""
        self._vacate(sequence)
        sequence.computed = 0
        self._waiting.appendleft(sequence)

    def _vacate(self, sequence: Sequence) -> None:
        self._active.remove(sequence)
        self._model.drop(sequence.slot)
        self._free_slots.append(sequence.slot)
        sequence.slot = -1
