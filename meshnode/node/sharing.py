"""Opens and closes this node to others' work: by its owner's word, and by what the machine is doing.

Looks at the machine four times a second where there are rules about it, so that its owner's activity is seen, and
others' work has left, within a second. The rules are decided in `routing.idle`, the lines kept in `serve.gate`.
"""

import math
from collections.abc import Callable

import structlog
import trio

from meshnode.config import Config
from meshnode.host.machine import Machine
from meshnode.observe.snapshot import SharingView
from meshnode.routing.idle import Verdict, Watcher, rules_of, untold
from meshnode.seams import Seams
from meshnode.serve.gate import Gate
from meshnode.terms import Openness, Reading

LOOK_EVERY_S = 0.25
log = structlog.get_logger("meshnode.node")


class Sharing:
    """What this node takes of others' work, while `run` runs."""

    def __init__(self, config: Config, seams: Seams, gate: Gate) -> None:
        self._seams = seams
        self._gate = gate
        self._watcher = Watcher(rules_of(config))
        self._looks = self._watcher.rules.any or seams.signs is not tuple
        self._found = Verdict(Openness.ACCEPTING)
        self._untold: tuple[str, ...] = ()
        self._said = Openness.ACCEPTING
        self._until = math.inf
        self._news = trio.Event()
        self._looked = trio.Event()

    async def run(self) -> None:
        """Look and open or close, until cancelled."""
        look = await self._seams.blocking(self._machine) if self._looks else None
        while True:
            self._news = trio.Event()
            if look is not None:
                reading = await self._seams.blocking(look)
                self._found = self._watcher.look(reading, trio.current_time())
                self._untold = untold(self._watcher.rules, reading)
            self._set()
            self._looked.set()
            every_s = LOOK_EVERY_S if look is not None else math.inf
            with trio.move_on_at(min(self._until, trio.current_time() + every_s)):
                await self._news.wait()

    def pause(self, *, everything: bool = False, for_s: float = math.inf) -> SharingView:
        """Take no work of others, or none at all, for so many seconds; others' work leaves at once."""
        self._said = Openness.PAUSED if everything else Openness.PAUSED_FOR_REMOTE
        self._until = trio.current_time() + for_s
        self._set()
        self._news.set()
        return self.view()

    async def resume(self) -> SharingView:
        """Take back `pause`, and wait for no more calm; what the rules forbid stays forbidden."""
        self._said, self._until = Openness.ACCEPTING, math.inf
        self._watcher.wait_no_longer()
        self._looked = trio.Event()
        self._news.set()
        await self._looked.wait()
        return self.view()

    def view(self) -> SharingView:
        """How it is, and why, for the owner."""
        paused = self._said is not Openness.ACCEPTING
        why = ("paused by its owner",) if paused else ()
        left_s = self._until - trio.current_time()
        return SharingView(
            state=self._gate.openness.words,
            why=(*why, *self._found.why),
            left_s=left_s if paused and left_s < math.inf else None,
            untold=self._untold,
        )

    def _set(self) -> None:
        if trio.current_time() >= self._until:
            self._said, self._until = Openness.ACCEPTING, math.inf
        before = self._gate.openness
        self._gate.set_openness(max(self._said, self._found.openness))
        if self._gate.openness is not before:
            log.info("sharing", state=self._gate.openness.words, why="; ".join(self.view().why))

    def _machine(self) -> Callable[[], Reading]:
        seams = self._seams
        return seams.look or Machine(seams.wall, seams.free_memory_bytes, seams.signs).look
