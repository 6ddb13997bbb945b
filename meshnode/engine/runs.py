"""The runs that a node has given to its worker: where their pieces go, and how much work they still are.

It knows frames' meaning but neither the process nor the model.
"""

import math
from collections.abc import Callable

import trio

from meshnode.engine.base import Load
from meshnode.engine.outlet import Outlet
from meshnode.engine.worker.frames import (
    Cancel,
    Check,
    Checked,
    Embedded,
    Ended,
    Prefilled,
    Refused,
    Started,
    Written,
)
from meshnode.errors import EngineFailed, MeshError, from_code
from meshnode.terms import End, Job, ModelCard, Piece, Progress, Recheck, Redrawn, Usage, Vector

SPEED_MIN = 0.1  # tokens per second, for estimates
RECHECK_S = 30.0  # for a spot check, at most; a worker that takes longer has other work
CHARS_PER_TOKEN = 4  # a guess for the queue's figures, until the worker has counted

RunEvent = Started | Prefilled | Written | Embedded | Ended | Refused


class Run(Outlet):
    """One run's end on the node's side: an iterator over what comes out of it."""

    def __init__(self, number: int, job: Job) -> None:
        # Bounded by the model's context: a run cannot write more tokens than that, nor ever more than once.
        super().__init__(math.inf)
        self.number = number
        self.over = False
        self.prefill_left = sum(len(turn.content) for turn in job.turns) // CHARS_PER_TOKEN + 1
        self.decode_left = job.sampling.max_tokens or job.wish.output_tokens
        self._prompt_tokens = 0

    def take(self, event: RunEvent) -> None:
        """Take in what the worker says about this run; what it says after the end does not count."""
        if self.over:
            return
        match event:
            case Started(prompt_tokens=count):
                self.prefill_left = self._prompt_tokens = count
            case Prefilled(done=done, total=total):
                self.prefill_left = total - done
                self._put.send_nowait(Progress(done, total))
            case Written(first_index=first_index, ids=ids, text=text, calls=calls, logprobs=logprobs):
                self.decode_left = max(1, self.decode_left - len(ids))
                self._put.send_nowait(Piece(first_index, ids, text, calls, logprobs))
            case Embedded(index=index, values=values):
                self._put.send_nowait(Vector(index, values))
            case Ended():
                usage = Usage(event.prompt_tokens, event.completion_tokens, event.cached_tokens)
                self._finish(End(event.reason, usage))
            case Refused():
                self.fail(from_code(event.code, event.message, hint=event.hint, param=event.param))

    def show_life(self) -> None:
        """It has not begun yet, and whoever waits for it shall not give up."""
        if not self.over:
            self._put.send_nowait(Progress(0, self.prefill_left))

    def fail(self, error: MeshError) -> None:
        """End with an error, after what has already come."""
        if not self.over:
            self._finish(error)

    def _finish(self, last: End | MeshError) -> None:
        self.over = True
        self.prefill_left = self.decode_left = 0
        self._close(last)


class Outcome:
    """What a spot check finds, once it is `settled`."""

    def __init__(self) -> None:
        self.places: tuple[Redrawn, ...] = ()
        self.settled = trio.Event()

    def settle(self, places: tuple[Redrawn, ...]) -> None:
        """This is it."""
        self.places = places
        self.settled.set()


class Runs:
    """All runs of one engine that have not been left yet."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._runs: dict[int, Run] = {}
        self._rechecks: dict[int, Outcome] = {}
        self._last_number = 0

    def __len__(self) -> int:
        return sum(not run.over for run in self._runs.values())

    @property
    def load(self) -> Load:
        """How much work they still are."""
        return Load(
            in_flight=len(self),
            queued_prefill=sum(run.prefill_left for run in self._runs.values()),
            queued_decode=sum(run.decode_left for run in self._runs.values()),
            slots=self._slots,
        )

    def wait_s(self, card: ModelCard) -> float:
        """An estimate, in seconds, of when a place gets free."""
        load = self.load
        generate_tps = max(card.generate_tps * card.batch_gain, SPEED_MIN)
        prefill_s = load.queued_prefill / max(card.prompt_tps, SPEED_MIN)
        return max(1.0, (prefill_s + load.queued_decode / generate_tps) / max(1, load.in_flight))

    def begin(self, job: Job) -> Run:
        """A new run."""
        self._last_number += 1
        run = self._runs[self._last_number] = Run(self._last_number, job)
        return run

    async def recheck(self, check: Recheck, send: Callable[[Cancel | Check], None]) -> tuple[Redrawn, ...]:
        """Have the worker draw an answer again; nothing where it cannot, has other work or takes too long."""
        self._last_number += 1
        number, outcome = self._last_number, Outcome()
        self._rechecks[number] = outcome
        try:
            send(Check(number, check))
            with trio.move_on_after(RECHECK_S):
                await outcome.settled.wait()
        finally:
            if self._rechecks.pop(number, None) is not None and not outcome.settled.is_set():
                send(Cancel(number))
        return outcome.places

    def leave(self, run: Run) -> None:
        """Its caller has gone."""
        self._runs.pop(run.number, None)

    def take(self, event: RunEvent | Checked) -> None:
        """Hand an event to its run, or to who waits for a check; one for a run that was left is dropped."""
        if isinstance(event, Checked):
            if outcome := self._rechecks.get(event.number):
                outcome.settle(event.places)
            return
        if run := self._runs.get(event.number):
            run.take(event)

    def fail_all(self, kind: type[EngineFailed], why: str) -> None:
        """End all of them, each with an error of its own, and every check without a finding."""
        rechecks, self._rechecks = self._rechecks, {}
        for outcome in rechecks.values():
            outcome.settle(())
        for run in self._runs.values():
            run.fail(kind(why, retry_after_s=1.0))
