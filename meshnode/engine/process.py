"""The engine that runs a model through llama.cpp, in a supervised process of its own.

The process may hang or die at any moment; the node never does. A crash ends the runs it held with one clear
error each and a new process is started, after a pause that grows while crashes follow each other. While other
models need the memory more there is no process at all, and the next run brings it back.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from meshnode.engine.base import EngineState, Load
from meshnode.engine.budget import MemoryBudget, too_large
from meshnode.engine.card import build_card, refreshed
from meshnode.engine.child import WORKER_COMMAND, start_child
from meshnode.engine.footprint import fitting_context, footprint_bytes, shelf_bytes
from meshnode.engine.life import CRASHED, Ending, Life
from meshnode.engine.model_file import ModelFile
from meshnode.engine.runs import Run, Runs
from meshnode.engine.sandbox import MODEL_INSIDE, Launch, Sandbox
from meshnode.engine.worker.frames import Cancel, Confined, Loading, Measured, Open, Ready
from meshnode.engine.worker.frames import Run as RunCommand
from meshnode.errors import Busy, EngineFailed, MeshError, ModelNotFound
from meshnode.observe import log
from meshnode.terms import Emitted, Job, ModelCard, Posture, Recheck, Redrawn

QUEUE_RUNS = 64  # that may wait beside those in slots
STALL_S = 30.0  # without a sign of life while there is work
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 30.0
STEADY_S = 60.0  # a worker that lived this long starts the pauses anew
LOAD_CRASHES_MAX = 3  # in a row, without ever getting ready
CARD_EVERY_S = 15.0  # between two changes of its speeds, and so between two ads
LIFE_SIGN_S = 1.0  # between two signs to those who wait while their model is brought into memory
ROOM_WAIT_S = 30.0  # for memory, at most; and at most half the time that a job has
WAITS_FOR_ROOM = "waiting for memory that other models hold"
ILLEGAL_INSTRUCTION = "it was ended by SIGILL"  # llama.cpp was built for another processor

_log = log.get("engine")


class LlamaEngine:
    """An Engine over a worker process.

    `thread_count` 0 follows the machine's load; `context` 0 is the most that is sensible, and all slots share it
    unless each has a `slot_context` of its own. `budget` is the memory that it shares with other engines, `sandbox`
    what its workers are put into, the strongest there is by default; `verify` raises ModelFileInvalid when a file
    is not what it was. `command` starts a worker and `stall_s` is how long one may be silent over its work: both
    are there for tests.
    """

    def __init__(
        self,
        model: ModelFile | None = None,
        *,
        slots: int = 8,
        context: int = 0,
        slot_context: int = 0,
        thread_count: int = 0,
        budget: MemoryBudget | None = None,
        sandbox: Sandbox | None = None,
        verify: Callable[[ModelFile], Awaitable[None]] | None = None,
        command: Sequence[str] = WORKER_COMMAND,
        stall_s: float = STALL_S,
    ) -> None:
        self._model = model
        self._changed = trio.Event()
        self._slots, self._threads = slots, thread_count
        self._context, self._divided = slots * slot_context or context, slot_context > 0
        self._budget = budget or MemoryBudget(1 << 62)  # as good as unbounded
        self._sandbox = sandbox or Sandbox()
        self._verify = verify
        self._command, self._stall_s = command, stall_s
        self._state = EngineState.LOADING if model else EngineState.ABSENT
        self._detail = ""
        self._posture = Posture()
        self._card: ModelCard | None = None
        self._watchers: list[Callable[[], None]] = []
        self._runs = Runs(slots)
        self._held: dict[int, tuple[RunCommand, Run, float]] = {}
        self._life: Life | None = None
        self._stay = trio.CancelScope()
        self._wanted = trio.Event()
        self._plain = self._recalled = False  # without special instructions; from standby, and to come back
        self._card_at = self._used_at = 0.0
        self.restarts = 0  # of workers that had crashed

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The model's card while it runs, and while it could be brought back at once."""
        return (self._card,) if self._card and (self._state is EngineState.READY or self.on_call) else ()

    @property
    def on_call(self) -> bool:
        """Whether a run may be given to it although it is not in memory: it will be brought there."""
        coming = self._recalled and self._state is EngineState.LOADING
        return self._card is not None and (coming or self._state is EngineState.STANDBY)

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
        return self._life.child.pid if self._life else None

    @property
    def idle(self) -> bool:
        """Whether it is in memory and nobody would notice if it were not."""
        return self._state is EngineState.READY and not len(self._runs)

    @property
    def used_at(self) -> float:
        """When its last run ended, on trio's clock."""
        return self._used_at

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call back on every change of state, detail or cards."""
        self._watchers.append(on_change)

    def use(self, model: ModelFile) -> None:
        """Run this model from now on, ending what runs; also the way out of FAILED."""
        self._model, self._card = model, None
        self._end_runs("the model was exchanged for another")
        self._changed.set()
        self._become(EngineState.LOADING)

    def expect(self, detail: str) -> None:
        """A model is on its way: LOADING, with how far it is, until `use` or `give_up`."""
        self._become(EngineState.LOADING, detail)

    def give_up(self, detail: str) -> None:
        """The model cannot be had: FAILED, and why, until `use`."""
        self._become(EngineState.FAILED, detail)

    def vacate(self) -> None:
        """Leave the memory to another model, if nothing runs; the next run brings this one back."""
        if self.idle:
            self._life = None
            self._stand_by()
            self._stay.cancel()

    def wake(self) -> None:
        """Come back into memory before a run asks for it."""
        self._wanted.set()

    def set_threads(self, count: int) -> None:
        """Compute with this many threads, within a moment; 0 follows the machine's load again."""
        self._threads = count

    @asynccontextmanager
    async def run(self, job: Job, scope: bytes = b"") -> AsyncIterator[AsyncIterator[Emitted]]:
        """Run a job, see Engine.run; on standby it waits, with Progress as a sign of life, for the model."""
        run = self._begin(job, scope)
        try:
            yield run
        finally:
            self._runs.leave(run)
            held = self._held.pop(run.number, None)
            if self._life is not None and not (run.over or held):
                self._life.child.send(Cancel(run.number))
            self._used_at = trio.current_time()
            self._budget.changed()

    async def recheck(self, check: Recheck) -> tuple[Redrawn, ...]:
        """Draw an answer again, see Rechecker.recheck."""
        return await self._runs.recheck(check, self._life.child.send) if self._life and self.idle else ()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a worker alive for whatever model is in use, until cancelled."""
        task_status.started()
        try:
            while True:
                self._changed = trio.Event()
                async with trio.open_nursery() as nursery:
                    if self._model:
                        nursery.start_soon(self._supervise, self._model)
                    await self._changed.wait()
                    nursery.cancel_scope.cancel()
        finally:
            self._card = None
            self._end_runs("this node's engine is being stopped")

    # --- Runs ---

    def _begin(self, job: Job, scope: bytes) -> Run:
        """Take a run in, and give it to the worker or hold it until there is one."""
        self._check_accepts()
        first = not len(self._runs)
        run = self._runs.begin(job)
        command = RunCommand(run.number, job, scope)
        if self._life is None or self._state is not EngineState.READY:
            patience_s = min(ROOM_WAIT_S, job.deadline_ms / 2000)
            self._held[run.number] = (command, run, trio.current_time() + patience_s)
            self._wanted.set()
            return run
        if first:
            self._life.begin_work()
        self._life.child.send(command)
        return run

    def _check_accepts(self) -> None:
        """Raise why no run can be taken in, if so."""
        match self._state:
            case EngineState.ABSENT:
                raise ModelNotFound("this node has no model of its own", hint="Get one: meshnode pull NAME")
            case EngineState.FAILED:
                raise EngineFailed(self._detail)
        if self._state is not EngineState.READY and not self.on_call:
            raise Busy(self._detail or "the model is being loaded", retry_after_s=2.0)
        if len(self._runs) >= self._slots + QUEUE_RUNS:
            assert self._card is not None
            raise Busy("this node's queue is full", retry_after_s=self._runs.wait_s(self._card))

    def _send_held(self) -> None:
        """The model is there: give it what has waited for it."""
        held, self._held = self._held, {}
        assert self._life is not None
        self._life.begin_work()
        for command, _, _ in held.values():
            self._life.child.send(command)

    def _end_runs(self, why: str) -> None:
        self._life = None
        self._held.clear()
        self._runs.fail_all(EngineFailed, why)

    # --- Life and death ---

    async def _supervise(self, model: ModelFile) -> None:
        """Bring the model into memory whenever it is wanted, until that turns out to be vain."""
        total_bytes = self._budget.total_bytes
        fits = partial(fitting_context, model.shape, slots=self._slots, divided=self._divided)
        context = fits(budget_bytes=total_bytes, wanted=self._context)
        need_bytes = footprint_bytes(model.shape, context=context or self._context, slots=self._slots)
        if not context:
            self.give_up(str(too_large(need_bytes, total_bytes)))
            return
        self._recalled = False
        while self._state is not EngineState.FAILED:
            self._become(EngineState.LOADING, WAITS_FOR_ROOM)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._comfort, nursery.cancel_scope)
                async with self._budget.room(self, need_bytes):
                    await self._keep_alive(model, context)
                nursery.cancel_scope.cancel()
            if self._state is EngineState.STANDBY:
                await self._wanted.wait()

    async def _comfort(self, waiting: trio.CancelScope) -> None:
        """While the model is not there, a sign of life to all who wait for it, and Busy when that is vain."""
        while self._state is EngineState.LOADING:
            await trio.sleep(LIFE_SIGN_S)
            for number, (_, run, until) in list(self._held.items()):
                if self._detail == WAITS_FOR_ROOM and trio.current_time() >= until:
                    run.fail(Busy("the models in memory are all at work", retry_after_s=ROOM_WAIT_S))
                    del self._held[number]
                run.show_life()
            if self._recalled and not self._held and self._detail == WAITS_FOR_ROOM:
                self._stand_by()
                waiting.cancel()

    async def _keep_alive(self, model: ModelFile, context: int) -> None:
        """One worker after another, until another model needs the memory or it turns out to be vain."""
        pause_s, load_crashes = PAUSE_FIRST_S, 0
        self._become(EngineState.LOADING)
        with trio.CancelScope() as self._stay:
            while True:
                started = trio.current_time()
                ending = await self._live(model, context)
                load_crashes = 0 if ending.was_ready else load_crashes + 1
                if ending.vain or load_crashes >= LOAD_CRASHES_MAX:
                    self._become(EngineState.FAILED, ending.how)
                    return
                if trio.current_time() - started > STEADY_S:
                    pause_s = PAUSE_FIRST_S
                _log.error("worker crashed", how=ending.how, pause_s=pause_s)
                self._become(EngineState.LOADING, f"the worker crashed and is being restarted ({ending.how})")
                self.restarts += 1
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _live(self, model: ModelFile, context: int) -> Ending:
        """One worker's life, in the strongest sandbox in which it can begin."""
        need_bytes = footprint_bytes(model.shape, context=context, slots=self._slots)
        try:
            if self._verify is not None:
                await self._verify(model)
        except MeshError as error:
            return Ending(how=str(error), vain=True)
        while True:
            launch = self._sandbox.launch(self._command, model.path, need_bytes if any(model.shape) else 0)
            ending = await self._live_in(launch, model, context)
            if ending.how.startswith(ILLEGAL_INSTRUCTION) and not self._plain:
                self._plain = True
                _log.warning("computing without special instructions", why=ending.how)
                continue
            if ending.began or not self._sandbox.weaken(ending.how):
                ending.how = ending.how.replace(MODEL_INSIDE, model.path)
                return ending

    async def _live_in(self, launch: Launch, model: ModelFile, context: int) -> Ending:
        """One worker's life, from its start to its end."""
        try:
            async with start_child(launch) as child:
                self._life = Life(
                    child,
                    self._runs,
                    lambda event: self._take(event, model),
                    on_lost=self._lose,
                    fixed_threads=lambda: self._threads,
                    stall_s=self._stall_s,
                )
                threads = await self._life.first_threads()
                shelf = shelf_bytes(model.shape, context=context)
                how = (launch.wall, shelf, self._plain, self._divided)
                child.send(Open(launch.model, self._slots, context, threads, *how))
                ending = await self._life.run()
                ending.how = ending.how or await child.last_words()
                ending.began = ending.began or child.killed  # whoever did that, it was not the sandbox
        except EngineFailed as error:
            return Ending(how=str(error), vain=True)
        return ending

    def _take(self, event: Confined | Loading | Ready | Measured, model: ModelFile) -> None:
        match event:
            case Confined(posture):
                self._posture = self._sandbox.proven(posture)
            case Loading(done):
                self._become(EngineState.LOADING, f"loading the model: {done:.0%}")
            case Ready():
                self._card = build_card(
                    event, name=model.name, digest=model.digest, statement=model.statement
                )
                self._card_at = self._used_at = trio.current_time()
                self._become(EngineState.READY)
                self._send_held()
                self._budget.changed()
            case Measured():
                self._refresh_card(event)

    def _refresh_card(self, measured: Measured) -> None:
        """Speeds have moved; the card follows now and then, for each change of it is signed and spread."""
        now = trio.current_time()
        if self._card is None or self._life is None or now - self._card_at < CARD_EVERY_S:
            return
        card = refreshed(self._card, measured, self._life.watts)
        if card is not self._card:
            self._card, self._card_at = card, now
            self._become(EngineState.READY)

    def _stand_by(self) -> None:
        """Out of memory, to come back when it is wanted."""
        self._recalled, self._wanted = True, trio.Event()
        self._become(EngineState.STANDBY, "unloaded to make room")

    def _lose(self) -> None:
        """The worker is gone, and with it what it ran."""
        self._life = None
        self._recalled = False
        self._held.clear()
        if self._state is EngineState.READY:
            self._become(EngineState.LOADING, CRASHED)

    def _become(self, state: EngineState, detail: str = "") -> None:
        if (state, detail) == (self._state, self._detail) and state is not EngineState.READY:
            return
        self._state, self._detail = state, detail
        for on_change in self._watchers:
            on_change()
