"""The batched loop: commands, admission, one step of computing for every run at once, events.

Each step computes what `schedule` says: tokens of those who answer, and of prompts so many that nobody waits long
for anybody's. Runs are admitted by cells of the key-value cache; if answers grow beyond what was reserved, the
youngest run is moved out and computed again later, and nobody fails. It knows neither processes nor pipes: commands
come from a callable, events go to one.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items

from meshnode.engine.worker.answer import Release
from meshnode.engine.worker.cache import KEEP_MIN_TOKENS, Cache
from meshnode.engine.worker.frames import (
    Alive,
    AnyCommand,
    Cancel,
    Check,
    Ended,
    Event,
    Inspect,
    Inspected,
    Open,
    Prefilled,
    Refused,
    Run,
    Started,
    Threads,
    Written,
)
from meshnode.engine.worker.intake import take_in
from meshnode.engine.worker.llama import ABORTED, Batch, Model
from meshnode.engine.worker.measure import Pace
from meshnode.engine.worker.outbox import HOLD_S, Outbox
from meshnode.engine.worker.prefix import common_length
from meshnode.engine.worker.rechecking import Rechecking
from meshnode.engine.worker.schedule import OneByOne, Together
from meshnode.engine.worker.sequence import UNPLACED, Sequence
from meshnode.engine.worker.template import Template
from meshnode.engine.worker.vectors import Embeds, Vectors
from meshnode.errors import MeshError
from meshnode.terms import FinishReason

DECODED, NO_CELLS = 0, 1
INTERRUPT_MIN_TOKENS = 16  # a smaller step is over before it could be interrupted


class DecodeError(Exception):
    """llama.cpp broke in the middle of a step; only a new process can be trusted."""


class Loop:
    """The runs of one model. `commands(wait)` gives what has come, waiting for something if told so."""

    def __init__(
        self,
        model: Model,
        template: Template,
        *,
        cache: Cache,
        embedder: Embeds,
        pace: Pace,
        commands: Callable[[bool], Iterable[AnyCommand]],
        emit: Callable[[Items[Event]], None],
        clock: Callable[[], float] = time.perf_counter,
        hold_s: float = HOLD_S,
    ) -> None:
        self._model = model
        self._template = template
        self._pace = pace
        self._commands = commands
        self._out = Outbox(emit, hold_s=hold_s, clock=clock)
        self._clock = clock
        self._cache = cache
        self._vectors = Vectors(embedder)
        self._rechecking = Rechecking(model, template, cache)
        self._schedule = OneByOne() if model.divided else Together()
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []  # oldest first
        self._computing: dict[int, int] = {}  # how many tokens of which run, for the thread that interrupts

    def run(self) -> None:
        """Work for ever; the process ends when its standard input does."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Take commands, which are waited for when there is nothing else to do, and compute one step."""
        has_work = self._active or self._waiting or self._vectors or self._rechecking
        if not has_work:
            self._out.send()
        for command in self._commands(not has_work):
            self._obey(command)
        self._recheck()
        self._admit()
        if self._vectors or any(sequence.reading for sequence in self._active):
            self._out.send()  # no token waits for a long step
        has_work = self._active or self._vectors
        if self._active:
            self._step()
        if self._vectors:
            self._embed()
        if has_work and not self._out:
            self._out.add(Alive())
        self._out.send_due()

    def foresee(self, command: AnyCommand) -> None:
        """A command has come that the loop has not taken yet; may be called from any thread.

        A step that works mostly for a run that nobody wants any more is interrupted, and a check by any run.
        """
        if isinstance(command, Run) and self._rechecking:
            self._model.interrupt()
        if isinstance(command, Cancel):
            computing = self._computing
            if computing.get(command.number, 0) * 2 > sum(computing.values()) > INTERRUPT_MIN_TOKENS:
                self._model.interrupt()

    def _obey(self, command: AnyCommand) -> None:
        match command:
            case Run():
                self._take(command)
            case Cancel(number):
                self._cancel(number)
            case Threads(count):
                self._model.set_threads(max(1, count))
            case Inspect(forget):
                self._inspect(forget=forget)
            case Check(number):
                if said := self._rechecking.begin(command):
                    self._out.add(said)
            case Open():
                self._out.add(Refused(0, "invalid_request", "a model is already open"))

    def _take(self, run: Run) -> None:
        try:
            if run.job.inputs:
                texts = [self._model.tokens(text) for text in run.job.inputs]
                self._vectors.add(run.number, texts)
                self._out.add(Started(run.number, sum(map(len, texts))))
                return
            sequence = take_in(run, self._model, self._template)
        except MeshError as error:
            self._refuse(run.number, error)
            return
        self._out.add(Started(run.number, sequence.prompt_tokens))
        self._waiting.append(sequence)
        if reason := sequence.ended():  # resumed after its last token
            self._end(sequence, reason)

    def _refuse(self, number: int, error: MeshError) -> None:
        self._out.add(Refused(number, error.code, error.message, error.hint, error.param))

    def _cancel(self, number: int) -> None:
        self._vectors.cancel(number)
        self._rechecking.cancel(number)
        for sequence in [*self._active, *self._waiting]:
            if sequence.number == number:
                self._leave(sequence)

    def _inspect(self, *, forget: bool) -> None:
        if forget:
            self._cache.forget()
        self._out.add(
            Inspected(
                runs=len(self._active) + len(self._waiting) + len(self._vectors),
                cells=self._cache.cells,
                idle=self._cache.idle,
                occupied=self._model.occupied(),
            )
        )

    def _recheck(self) -> None:
        """A step of the check that is under way, unless there is anything else to do: then it is over."""
        if not self._rechecking:
            return
        busy = self._active or self._waiting or self._vectors
        if said := self._rechecking.give_up() if busy else self._rechecking.step():
            self._out.add(said)

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._model.slots and self._fits(self._waiting[0]):
            self._active.append(self._waiting.popleft())

    def _fits(self, sequence: Sequence) -> bool:
        if not self._active:
            return True
        wanted = self._cache.held() + sum(active.growth for active in self._active) + sequence.growth
        return wanted - self._cache.shared(sequence.scope, sequence.tokens) <= self._model.cells

    def _step(self) -> None:
        batch = self._fill()
        status = self._decode(batch) if self._cache.make_room(len(batch)) else NO_CELLS
        if status == ABORTED:
            self._repair()
        elif status == NO_CELLS and len(self._active) > 1:
            self._move_out(self._active[-1])
        elif status != DECODED:
            raise DecodeError(f"llama_decode returned {status} for {len(batch)} tokens")

    def _decode(self, batch: Batch) -> int:
        started = self._clock()
        self._computing = {sequence.number: sequence.batched for sequence in self._active}
        status = self._model.decode(batch)
        self._computing = {}
        if status == DECODED:
            read = sum(sequence.batched for sequence in self._active if sequence.reading)
            answering = len(batch) - read
            self._advance()
            self._out.add(*self._pace.note(read, answering, started, self._clock()))
        return status

    def _fill(self) -> Batch:
        """One token for each run that is answering, and beside them prompts."""
        batch = self._model.new_batch()
        if self._model.divided:
            self._gather()
        reading: list[Sequence] = []
        answering: list[Sequence] = []
        for sequence in self._active:
            sequence.batched, sequence.row = 0, -1
            if sequence.place == UNPLACED and not self._begin(sequence):
                continue
            (reading if sequence.reading else answering).append(sequence)
        takes = self._schedule.takes(reading, answering, self._pace.chunk)
        for sequence, take in sorted(takes, key=lambda each: each[0].place):
            self._add(batch, sequence, take)
        return batch

    def _gather(self) -> None:
        """Close the holes that those have left who ended: only neighbours are computed in one go."""
        placed = [sequence for sequence in self._active if sequence.place != UNPLACED]
        for sequence in placed:
            if sequence.place >= len(placed):
                sequence.place = self._cache.move(sequence.place)

    def _begin(self, sequence: Sequence) -> bool:
        """Give it a place, unless it is better to wait for what another is about to compute for both."""
        known = self._cache.cached(sequence.scope, sequence.tokens)
        if any(_leads(other, sequence, known) for other in self._active) and not self._model.whole_only:
            return False
        sequence.begin(*self._cache.take(sequence.scope, sequence.tokens))
        return True

    def _add(self, batch: Batch, sequence: Sequence, take: int) -> None:
        sequence.batched = take
        complete = take == sequence.left
        tokens = sequence.tokens[sequence.computed : sequence.computed + take]
        row = batch.add(sequence.place, sequence.computed, tokens, last_logits=complete)
        if complete:
            sequence.row = row

    def _advance(self) -> None:
        for sequence in [each for each in self._active if each.batched]:
            was_reading, end = sequence.reading, sequence.computed + sequence.batched
            self._cache.extend(sequence.place, sequence.tokens[sequence.computed : end])
            sequence.computed = end
            if was_reading:
                done = min(end, sequence.prompt_tokens)
                self._out.add(Prefilled(sequence.number, done, sequence.prompt_tokens))
            if sequence.row >= 0:
                self._draw(sequence)

    def _draw(self, sequence: Sequence) -> None:
        try:
            token = sequence.draw()
        except MeshError as error:
            self._refuse(sequence.number, error)
            self._leave(sequence)
            return
        if self._model.ends(token):
            self._end(sequence, FinishReason.STOP)
            return
        self._write(sequence, sequence.accept(token, self._model.piece(token)))
        if reason := sequence.ended():
            self._end(sequence, reason)

    def _write(self, sequence: Sequence, release: Release | None) -> None:
        if release:
            self._out.add(Written(sequence.number, *release))

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        self._write(sequence, sequence.last())
        try:
            reason = sequence.reason(reason)
        except MeshError as error:
            self._refuse(sequence.number, error)
        else:
            counts = sequence.prompt_tokens, sequence.answered, sequence.cached
            self._out.add(Ended(sequence.number, reason, *counts))
        self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        if sequence in self._active:
            self._active.remove(sequence)
        else:
            self._waiting.remove(sequence)
        if sequence.place != UNPLACED:
            self._cache.leave(sequence.place)
        sequence.free()

    def _move_out(self, sequence: Sequence) -> None:
        """Back to the head of the queue; its tokens are kept and will be computed again."""
        self._active.remove(sequence)
        self._restart(sequence)
        self._waiting.appendleft(sequence)

    def _restart(self, sequence: Sequence) -> None:
        if sequence.place != UNPLACED:
            self._cache.drop(sequence.place)
        sequence.restart()

    def _repair(self) -> None:
        """Take out what an interrupted step has left in the cache."""
        for sequence in [each for each in self._active if each.batched]:
            if not self._cache.cut(sequence.place, sequence.computed):
                self._restart(sequence)

    def _embed(self) -> None:
        number = self._vectors.first
        try:
            self._out.add(*self._vectors.step())
        except MeshError as error:
            self._vectors.cancel(number)
            self._refuse(number, error)


def _leads(leader: Sequence, sequence: Sequence, known: int) -> bool:
    """Whether a run in its place is about to compute more of this one's tokens than are known by now."""
    if leader is sequence or leader.place == UNPLACED or leader.scope != sequence.scope or not leader.scope:
        return False
    common = common_length(leader.tokens, sequence.tokens[:-1])
    return common > leader.computed and common >= known + KEEP_MIN_TOKENS
