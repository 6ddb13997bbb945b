"""One worker from its start to its end: what it says, whether it still gets on, and how many threads it has.

It decides when a worker is to be killed, not what comes after it.
"""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import trio

from meshnode.engine import threads
from meshnode.engine.child import Child
from meshnode.engine.power import Meter
from meshnode.engine.runs import SPEED_MIN, Runs
from meshnode.engine.worker.frames import (
    Alive,
    AnyEvent,
    Broken,
    Confined,
    FrameError,
    Inspected,
    Loading,
    Measured,
    Ready,
    Threads,
)
from meshnode.errors import EngineCrashed, EngineFailed
from meshnode.observe import log

LOAD_STALL_S = 300.0  # without a sign of life while a model loads, perhaps from a slow disk
STALL_LOOK_S = 1.0
SLOW_STEPS = 20.0  # a model so slow that a step takes long may be silent for this many steps
STEP_TOKENS = 136
BARREN_SLACK = 3.0  # what writing all that a run may write takes at the measured speed, so many times
BUSY_CORES = 0.5  # a worker that takes this much computes, and the watts then are those of computing
WATTS_SMOOTHING = 0.1
CRASHED = "the worker crashed while it answered; it is being restarted"

_log = log.get("engine")


@dataclass
class Ending:
    """How a worker's life went: `vain` when another would end the same way.

    `began` when it got as far as opening its model, so that what it runs in is not at fault.
    """

    began: bool = False
    was_ready: bool = False
    how: str = ""
    vain: bool = False


class Life:
    """A running worker; `fixed_threads` tells how many threads it is to have, 0 for as the machine allows.

    `on_event` hears Confined, Loading, Ready and Measured; `on_lost` that it is gone, before its runs hear of
    it: they may try again in the same instant.
    """

    def __init__(
        self,
        child: Child,
        runs: Runs,
        on_event: Callable[[Confined | Loading | Ready | Measured], None],
        *,
        on_lost: Callable[[], None],
        fixed_threads: Callable[[], int],
        stall_s: float,
    ) -> None:
        self.child = child
        self.thread_count = threads.most(threads.cores())
        self.watts = 0.0
        self._runs = runs
        self._on_event = on_event
        self._on_lost = on_lost
        self._fixed_threads = fixed_threads
        self._stall_s = stall_s
        self._silence_s, self._barren_s = LOAD_STALL_S, LOAD_STALL_S
        self._loading = trio.Event()
        self._heard = self._progressed = trio.current_time()

    async def run(self) -> Ending:
        """Listen to it until it ends; runs that it still had are failed the moment it does."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_for_stall)
            nursery.start_soon(self._follow_load)
            ending = await self._listen()
            nursery.cancel_scope.cancel()
        return ending

    async def first_threads(self) -> int:
        """The count to load and measure with; the machine is looked at while the worker is still starting."""
        others = threads.Others(self.child.pid)
        await trio.sleep(threads.FIRST_LOOK_S)
        taken, _ = others.look(threads.FIRST_LOOK_S)
        free = threads.choose(threads.cores(), taken, self.thread_count)
        self.thread_count = self._fixed_threads() or free
        return self.thread_count

    def begin_work(self) -> None:
        """A run was sent to an idle worker: from now on it has something to say."""
        self._heard = self._progressed = trio.current_time()

    async def _listen(self) -> Ending:
        ending = Ending()
        try:
            async with aclosing(self.child.events()) as events:
                async for event in events:
                    self._take(event, ending)
                    if ending.vain:
                        break
        except FrameError as error:
            _log.error("worker talks nonsense", error=str(error))
            self.child.kill()
        self._on_lost()
        if ending.vain:
            self._runs.fail_all(EngineFailed, ending.how)
        self._runs.fail_all(EngineCrashed, CRASHED)
        return ending

    def _take(self, event: AnyEvent, ending: Ending) -> None:
        self._heard = trio.current_time()
        first, ending.began = not ending.began, ending.began or not isinstance(event, Broken)
        match event:
            case Confined():
                if first:
                    self._on_event(event)
            case Alive() | Inspected():
                return
            case Broken(message, hint):
                ending.vain, ending.how = True, str(EngineFailed(message, hint=hint))
            case Ready():
                ending.was_ready = True
                self._take_patience(event)
                self._loading.set()
                self._on_event(event)
            case Loading() | Measured():
                self._on_event(event)
            case _:
                self._runs.take(event)
        self._progressed = self._heard

    def _take_patience(self, ready: Ready) -> None:
        """How long it may be silent over its work, and how long it may work without anything to show."""
        step_s = STEP_TOKENS / max(ready.prompt_tps, SPEED_MIN)
        answer_s = ready.context * ready.slots / max(ready.generate_tps * ready.batch_gain, SPEED_MIN)
        self._silence_s = max(self._stall_s, SLOW_STEPS * step_s)
        self._barren_s = self._silence_s + BARREN_SLACK * answer_s

    async def _watch_for_stall(self) -> None:
        """Kill a worker that has work and gives no sign of life, or shows nothing for far too long."""
        while True:
            await trio.sleep(min(self._silence_s / 10, STALL_LOOK_S))
            now = trio.current_time()
            silent_s, barren_s = now - self._heard, now - self._progressed
            if len(self._runs) or not self._loading.is_set():
                if silent_s > self._silence_s or barren_s > self._barren_s:
                    _log.error("worker stalled", silent_s=round(silent_s, 1), barren_s=round(barren_s, 1))
                    self.child.kill()
            else:
                self.begin_work()

    async def _follow_load(self) -> None:
        """Let the thread count follow what other programs leave free, before a run comes and during it."""
        await self._loading.wait()
        governor = threads.Governor(self.child.pid, self.thread_count)
        meter, then = Meter(), trio.current_time()
        while True:
            await trio.sleep(threads.PERIOD_S)
            then, elapsed_s = trio.current_time(), trio.current_time() - then
            wanted = governor.look(elapsed_s)
            self._note_watts(meter.look(elapsed_s), governor.own)
            wanted = self._fixed_threads() or wanted
            if wanted != self.thread_count:
                self.thread_count = wanted
                self.child.send(Threads(wanted))

    def _note_watts(self, watts: float, own_cores: float) -> None:
        if watts and own_cores >= BUSY_CORES:
            self.watts += (WATTS_SMOOTHING if self.watts else 1.0) * (watts - self.watts)
