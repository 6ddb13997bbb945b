"""The engine that runs a model through llama.cpp, in a supervised process of its own.

The process may hang or die at any moment; the node never does. A crash ends the runs it held with one clear
error each and a new process is started, after a pause that grows while crashes follow each other.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import msgspec
import trio

from meshnode.engine import threads
from meshnode.engine.base import EngineState, Load
from meshnode.engine.card import build_card
from meshnode.engine.child import WORKER_COMMAND, Child, start_child
from meshnode.engine.runs import Runs
from meshnode.engine.worker.frames import (
    Alive,
    AnyEvent,
    Broken,
    Cancel,
    FrameError,
    Loading,
    Measured,
    Open,
    Ready,
    Threads,
)
from meshnode.engine.worker.frames import Run as RunCommand
from meshnode.errors import Busy, EngineFailed, ModelNotFound
from meshnode.observe import log
from meshnode.terms import Emitted, Job, ModelCard, Posture

QUEUE_RUNS = 64  # that may wait beside those in slots
STALL_S = 30.0  # without a sign of life while there is work
LOAD_STALL_S = 300.0  # the same while a model loads, perhaps from a slow disk
STALL_LOOK_S = 1.0
SLOW_STEPS = 20.0  # a model so slow that a step takes long may be silent for this many steps
STEP_TOKENS = 136
SPEED_MIN = 0.1  # tokens per second, for estimates
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 30.0
STEADY_S = 60.0  # a worker that lived this long starts the pauses anew
LOAD_CRASHES_MAX = 3  # in a row, without ever getting ready
CRASHED = "the worker crashed while it answered; it is being restarted"

_log = log.get("engine")


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A verified model file: its path, the SHA-256 it was verified against, and its `family:size` name."""

    path: str
    digest: bytes
    name: str = ""


class LlamaEngine:
    """An Engine over a worker process.

    `thread_count` 0 follows the machine's load; `context` 0 is the model's own, bounded. `command` starts a
    worker and `stall_s` is how long one may be silent over its work: both are there for tests.
    """

    def __init__(
        self,
        model: ModelFile | None = None,
        *,
        slots: int = 8,
        context: int = 0,
        thread_count: int = 0,
        command: Sequence[str] = WORKER_COMMAND,
        stall_s: float = STALL_S,
    ) -> None:
        self._model = model
        self._changed = trio.Event()
        self._slots, self._context, self._threads = slots, context, thread_count
        self._command, self._stall_s = command, stall_s
        self._state = EngineState.LOADING if model else EngineState.ABSENT
        self._detail = ""
        self._posture = Posture()
        self._cards: tuple[ModelCard, ...] = ()
        self._watchers: list[Callable[[], None]] = []
        self._runs = Runs(slots)
        self._child: Child | None = None
        self._heard = 0.0
        self._silence_s = LOAD_STALL_S

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The model's card while it runs."""
        return self._cards

    @property
    def state(self) -> EngineState:
        """Where the worker is in its life."""
        return self._state

    @property
    def detail(self) -> str:
        """How far the load is, or what went wrong."""
        return self._detail

    @property
    def posture(self) -> Posture:
        """What its worker could do if it were taken over."""
        return self._posture

    @property
    def load(self) -> Load:
        """How busy it is."""
        return self._runs.load

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one."""
        return self._child.pid if self._child else None

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call back on every change of state, detail or cards."""
        self._watchers.append(on_change)

    def use(self, model: ModelFile) -> None:
        """Run this model from now on, ending what runs; also the way out of FAILED."""
        self._model = model
        self._changed.set()
        self._become(EngineState.LOADING)

    def expect(self, detail: str) -> None:
        """A model is on its way: LOADING, with how far it is, until `use` or `give_up`."""
        self._become(EngineState.LOADING, detail)

    def give_up(self, detail: str) -> None:
        """The model cannot be had: FAILED, and why, until `use`."""
        self._become(EngineState.FAILED, detail)

    def set_threads(self, count: int) -> None:
        """Compute with this many threads, within a moment; 0 follows the machine's load again."""
        self._threads = count

    @asynccontextmanager
    async def run(self, job: Job, scope: bytes = b"") -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job, see Engine.run."""
        child = self._accept()
        if not len(self._runs):
            self._heard = trio.current_time()
        run = self._runs.begin(job)
        child.send(RunCommand(run.number, job, scope))
        try:
            yield run
        finally:
            self._runs.leave(run)
            if not run.over:
                child.send(Cancel(run.number))

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a worker alive for whatever model is in use, until cancelled."""
        task_status.started()
        while True:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                if self._model:
                    nursery.start_soon(self._supervise, self._model)
                await self._changed.wait()
                nursery.cancel_scope.cancel()
            self._stop_runs("the model was exchanged for another")

    def _accept(self) -> Child:
        """The worker to give a run to, or why there is none."""
        match self._state:
            case EngineState.ABSENT:
                raise ModelNotFound("this node has no model of its own", hint="Get one: meshnode pull NAME")
            case EngineState.FAILED:
                raise EngineFailed(self._detail)
        if self._state is not EngineState.READY or self._child is None:
            raise Busy(self._detail or "the model is being loaded", retry_after_s=2.0)
        if len(self._runs) >= self._slots + QUEUE_RUNS:
            raise Busy("this node's queue is full", retry_after_s=self._wait_s())
        return self._child

    def _wait_s(self) -> float:
        """An estimate, in seconds, of when a place gets free."""
        card, load = self._cards[0], self._runs.load
        generate_tps = max(card.generate_tps * card.batch_gain, SPEED_MIN)
        prefill_s = load.queued_prefill / max(card.prompt_tps, SPEED_MIN)
        work_s = prefill_s + load.queued_decode / generate_tps
        return max(1.0, work_s / max(1, load.in_flight))

    async def _supervise(self, model: ModelFile) -> None:
        """One worker after another for this model, until that turns out to be vain."""
        pause_s, load_crashes = PAUSE_FIRST_S, 0
        while True:
            started = trio.current_time()
            self._become(EngineState.LOADING, self._detail)
            life = await self._live(model)
            load_crashes = 0 if life.was_ready else load_crashes + 1
            if life.vain or load_crashes >= LOAD_CRASHES_MAX:
                self._become(EngineState.FAILED, life.ending)
                return
            if trio.current_time() - started > STEADY_S:
                pause_s = PAUSE_FIRST_S
            _log.error("worker crashed", how=life.ending, pause_s=pause_s)
            self._become(EngineState.LOADING, f"the worker crashed and is being restarted ({life.ending})")
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _live(self, model: ModelFile) -> "_Life":
        """One worker's life, from its start to its end."""
        self._heard, self._silence_s = trio.current_time(), LOAD_STALL_S
        try:
            async with start_child(self._command) as child, trio.open_nursery() as nursery:
                self._child = child
                thread_count = self._threads or self._most_threads()
                child.send(Open(model.path, self._slots, self._context, thread_count))
                nursery.start_soon(self._watch_for_stall, child)
                nursery.start_soon(self._follow_load, child)
                life = await self._listen(child, model)
                nursery.cancel_scope.cancel()
        except EngineFailed as error:
            return _Life(ending=str(error), vain=True)
        return life

    async def _listen(self, child: Child, model: ModelFile) -> "_Life":
        """Take in events until there are no more. The runs fail the moment that is so."""
        life = _Life()
        try:
            async with aclosing(child.events()) as events:
                async for event in events:
                    self._heard = trio.current_time()
                    self._take(event, model, life)
                    if life.vain:
                        break
        except FrameError as error:
            _log.error("worker talks nonsense", error=str(error))
            child.kill()
        except trio.Cancelled:
            self._drop_runs("this node's engine is being stopped")
            raise
        self._stop_runs(CRASHED)
        life.ending = life.ending or await child.last_words()
        return life

    def _take(self, event: AnyEvent, model: ModelFile, life: "_Life") -> None:
        match event:
            case Loading(done):
                self._become(EngineState.LOADING, f"loading the model: {done:.0%}")
            case Ready():
                life.was_ready = True
                self._posture = event.posture
                self._cards = (build_card(event, name=model.name, digest=model.digest),)
                self._silence_s = max(
                    self._stall_s, SLOW_STEPS * STEP_TOKENS / max(event.prompt_tps, SPEED_MIN)
                )
                self._become(EngineState.READY)
            case Broken(message, hint):
                life.vain, life.ending = True, f"{message} {hint}".strip()
            case Alive() | Measured():
                pass
            case _:
                self._runs.take(event)

    async def _watch_for_stall(self, child: Child) -> None:
        """Kill a worker that has work and gives no sign of life."""
        while True:
            await trio.sleep(min(self._silence_s / 10, STALL_LOOK_S))
            has_work = len(self._runs) or self._state is EngineState.LOADING
            if has_work and trio.current_time() - self._heard > self._silence_s:
                _log.error("worker stalled", silent_s=round(trio.current_time() - self._heard, 1))
                child.kill()

    async def _follow_load(self, child: Child) -> None:
        """Let the thread count follow what other programs leave free, before a run comes and during it."""
        count = self._threads or self._most_threads()
        others = threads.Others(child.pid)
        while True:
            await trio.sleep(threads.PERIOD_S)
            taken = others.look(threads.PERIOD_S)
            wanted = self._threads or threads.choose(threads.cores(), taken, count)
            if wanted != count:
                count = wanted
                child.send(Threads(count))

    def _most_threads(self) -> int:
        return threads.most(threads.cores())

    def _stop_runs(self, why: str) -> None:
        """The worker is gone, and another is to come."""
        self._drop_runs(why)
        if self._state is EngineState.READY:
            self._become(EngineState.LOADING, why)

    def _drop_runs(self, why: str) -> None:
        """No worker, no card, no runs."""
        self._child = None
        self._cards = ()
        self._runs.fail_all(why)

    def _become(self, state: EngineState, detail: str = "") -> None:
        if (state, detail) == (self._state, self._detail) and state is not EngineState.READY:
            return
        self._state, self._detail = state, detail
        for on_change in self._watchers:
            on_change()


@dataclass
class _Life:
    """How one worker's life went: `vain` when another would end the same way."""

    was_ready: bool = False
    ending: str = ""
    vain: bool = False
