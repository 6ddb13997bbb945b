"""A simulation that is played one step at a time by code that is not asynchronous, as hypothesis's machines are.

The simulation runs in a thread of its own, which does nothing, and lets no virtual time pass, between two steps.
"""

import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import outcome

from meshnode.testing.simulation import Simulation, simulate

T = TypeVar("T")
Step = Callable[[Simulation], Awaitable[Any]]


class Stepwise:
    """One simulation; `conditions` as for `simulate`. Only one simulation may run in a process at a time."""

    def __init__(self, seed: int, **conditions: Any) -> None:
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[outcome.Maybe[Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(seed, conditions), daemon=True)
        self._thread.start()

    def do(self, step: Callable[[Simulation], Awaitable[T]]) -> T:
        """Run `step(simulation)` to its end; what it returns or raises."""
        if not self._thread.is_alive():
            raise RuntimeError("The simulation is over.")
        self._steps.put(step)
        done: T = self._outcomes.get().unwrap()
        return done

    def close(self) -> None:
        """End the simulation; raises what went wrong in it that no step was told."""
        self._steps.put(None)
        self._thread.join()
        if not self._outcomes.empty():
            self._outcomes.get().unwrap()

    def _run(self, seed: int, conditions: dict[str, Any]) -> None:
        try:
            simulate(seed, self._play, **conditions)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for a step
            self._outcomes.put(outcome.Error(error))

    async def _play(self, simulation: Simulation) -> None:
        while (step := self._steps.get()) is not None:
            done = await outcome.acapture(step, simulation)
            if isinstance(done, outcome.Error):
                if not isinstance(
                    done.error, Exception
                ):  # cancelled: a node has failed, and that is the error
                    raise done.error
                simulation.explain(done.error)
            self._outcomes.put(done)
