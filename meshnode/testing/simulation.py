"""Whole nodes on the in-memory network in virtual time, everything random drawn from one seed.

One seed gives one trace, byte for byte, in any process. The nodes are the real ones, from the API of `Node` down
to the sealed bytes of each link; only the network, the clocks and the engine are not the real world's.
"""

import hashlib
import random
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import trio

from meshnode.config import Config
from meshnode.net.memory import SCHEME, MemoryNetwork
from meshnode.node import Node, open_node
from meshnode.seams import Seams, inline
from meshnode.testing.clock import run_virtual
from meshwire import signing

T = TypeVar("T")
EPOCH_S = 1_750_000_000.0  # what the nodes' clocks show when a simulation begins
MEMORY_BYTES = 8 << 30
LOOK_EVERY_S = 0.05
VERIFIED_MAX = 100_000


class Simulation:
    """One run. `delay_s` is the range of one-way delays between two nodes, in seconds."""

    def __init__(self, seed: int, root: Path, delay_s: tuple[float, float] = (0.002, 0.040)) -> None:
        self.seed = seed
        self.messages = 0
        self._root = root
        self._trace = hashlib.sha256()
        self._verified: dict[tuple[Any, ...], None] = {}
        self.network = MemoryNetwork(self._random("network"), delay_s, self._on_message)

    def node(self, name: str, **settings: Any) -> AbstractAsyncContextManager[Node]:
        """A node of this name, at mem://name; `settings` are fields of Config. A name keeps its disk."""
        config = Config(home=self._root / name, name=name, **{"engine": "scripted", "slots": 4, **settings})
        return open_node(
            config, seams=self._seams(name), network=self.network.place(name), listen=SCHEME + name
        )

    async def until(self, holds: Callable[[], object], *, within_s: float = 30.0) -> None:
        """Let virtual time pass until `holds()`; raises trio.TooSlowError if that takes longer than `within_s`."""
        with trio.fail_after(within_s):
            while not holds():
                await trio.sleep(LOOK_EVERY_S)

    @property
    def digest(self) -> str:
        """Names the trace so far: when each message went, from where, to where, and its bytes."""
        return self._trace.hexdigest()

    def note(self, what: object) -> None:
        """Put something of the play's own into the trace."""
        self._trace.update(f"{trio.current_time():.9f} {what}\n".encode())

    def _seams(self, name: str) -> Seams:
        return Seams(
            wall=lambda: EPOCH_S + trio.current_time(),
            rng=self._random(f"rng {name}"),
            entropy=self._random(f"entropy {name}").randbytes,
            blocking=inline,
            verify=self._verify,
            free_memory_bytes=lambda: MEMORY_BYTES,
        )

    def _random(self, purpose: str) -> random.Random:
        """A source of its own for each purpose, so that more use of one leaves the others as they were."""
        return random.Random(f"{self.seed} {purpose}")

    def _on_message(self, source: str, target: str, message: bytes) -> None:
        self.messages += 1
        self.note(f"{source} {target} {hashlib.sha256(message).hexdigest()}")

    def _verify(self, *statement: Any) -> None:
        """Check a signature once: the same bytes come to every node, and checking is most of the cost."""
        if statement in self._verified:
            return
        signing.verify(*statement)
        if len(self._verified) >= VERIFIED_MAX:
            self._verified.clear()
        self._verified[statement] = None


def simulate(
    seed: int,
    play: Callable[[Simulation], Awaitable[T]],
    *,
    delay_s: tuple[float, float] = (0.002, 0.040),
) -> T:
    """Run `play(simulation)` in virtual time, on disks that are gone afterwards; what it returns."""

    async def run() -> T:
        return await play(Simulation(seed, Path(root), delay_s))

    with tempfile.TemporaryDirectory(prefix="meshnode-sim-") as root:
        return run_virtual(seed, run)
