"""Whole nodes on the in-memory network in virtual time, everything random drawn from one seed.

One seed gives one trace, byte for byte, in any process. The nodes are the real ones, from the API of `Node` down
to the sealed bytes of each link; only the network, the clocks and the engine are not the real world's.
"""

import hashlib
import itertools
import logging
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import outcome
import trio

from meshnode.net.alarm import CallAt
from meshnode.net.memory import MemoryNetwork
from meshnode.node import Node
from meshnode.observe.trace import untraced
from meshnode.seams import Seams, inline
from meshnode.testing.clock import VirtualClock, run_virtual
from meshnode.testing.hosts import Host
from meshnode.testing.roundtrips import Matrix
from meshnode.testing.timeline import Timeline
from meshwire import signing
from meshwire.records import Record, read_record

T = TypeVar("T")
EPOCH_S = 1_750_000_000.0  # what the nodes' clocks show when a simulation begins
MEMORY_BYTES = 8 << 30
LOOK_EVERY_S = 0.05
VERIFIED_MAX = 100_000
DELAY_S = (0.002, 0.040)


class Simulation:
    """One run. `delay_s` is the range of one-way delays between two nodes, in seconds.

    With a `matrix` of round trips each node gets a row of it, drawn by lot, and its delays from there; where there
    are more nodes than rows, some share one, as in one house.
    """

    def __init__(
        self,
        seed: int,
        root: Path,
        nursery: trio.Nursery,
        *,
        delay_s: tuple[float, float] = DELAY_S,
        matrix: Matrix | None = None,
    ) -> None:
        self.seed = seed
        self.messages = 0
        self.sent_bytes: Counter[str] = Counter()  # by the node that sent them, sealed and framed
        self.timeline = Timeline()
        self.hosts: dict[str, Host] = {}
        self._root = root
        self._nursery = nursery
        self._trace = hashlib.sha256()
        self._verified: dict[tuple[Any, ...], None] = {}
        self._records: dict[bytes, Record] = {}
        self._lives = 0
        self._matrix = matrix
        self._rows = self._random("rows").sample(range(len(matrix)), len(matrix)) if matrix else []
        self.network = MemoryNetwork(self._random("network"), delay_s, self._on_message, _call_at())

    # --- Nodes ---

    def host(self, name: str) -> Host:
        """The machine of this name; a new one if there is none."""
        if name not in self.hosts:
            self.hosts[name] = Host(name, self._root / name, self.network)
            self._connect_by_matrix(name)
        return self.hosts[name]

    @asynccontextmanager
    async def node(self, name: str, **settings: Any) -> AsyncIterator[Node]:
        """A node of this name, at mem://name, for as long as the context lasts.

        `settings` are fields of Config, and `hostile`. The same name opened again has the same keys and disk.
        """
        async with self.host(name).open(self._seams(name), **_complete(settings)) as node:
            yield node

    async def start(self, name: str, **settings: Any) -> Node:
        """A node of this name until `stop`, `crash` or the end of the simulation; `settings` as for `node`.

        With `hostile` (see `meshnode.testing.hostile`) one of its behaviours is not a node's of good will.
        """
        hostile = settings.get("hostile")
        self._tell(f"start {name}{f', hostile: {hostile.name}' if hostile is not None else ''}")
        host = self.host(name)
        if host.running:
            raise RuntimeError(f"{name!r} runs already.")
        node: Node = await self._nursery.start(host.live, self._seams(name), _complete(settings))
        return node

    async def stop(self, name: str) -> None:
        """End a node as its owner would."""
        self._tell(f"stop {name}")
        await self.host(name).stop()

    async def crash(self, name: str, *, silent: bool = False) -> None:
        """End a node without a goodbye; `silent`: its connections do not close either, as when power fails."""
        self._tell(f"crash {name}{', silently' if silent else ''}")
        await self.host(name).crash(silent=silent)

    async def restart(self, name: str) -> Node:
        """Start a node that ended, with the settings and the disk that it had."""
        return await self.start(name, **self.host(name).settings)

    def copy_disk(self, name: str) -> Path:
        """A copy of a node's disk as it is now, for `set_disk`: to go back to it later."""
        return self.host(name).copy_disk()

    def set_disk(self, name: str, copy: Path | None) -> None:
        """Put a copy in place of the disk of a node that does not run; None for an empty disk."""
        self._tell(f"{'another' if copy else 'an empty'} disk for {name}")
        self.host(name).set_disk(copy)

    def set_clock(self, name: str, ahead_s: float) -> None:
        """Let a node's clock be so far ahead of the true time, or behind it if negative, from now on."""
        self._tell(f"clock of {name} {ahead_s:+g} s")
        self.host(name).ahead_s = ahead_s

    def occupy(self, name: str, **changes: Any) -> None:
        """Change what a node's machine is doing besides; `changes` are fields of `meshnode.terms.Reading`."""
        self._tell(f"machine {name} {' '.join(f'{field}={value}' for field, value in changes.items())}")
        host = self.host(name)
        host.reading = msgspec.structs.replace(host.reading, **changes)

    # --- Faults between nodes ---

    def partition(
        self, some: str | Iterable[str], others: str | Iterable[str], *, one_way: bool = False
    ) -> None:
        """Let nothing through between these two groups; with `one_way`, nothing from the first to the second."""
        self._between("partition", some, others, self.network.partition, one_way=one_way)

    def hold(self, some: str | Iterable[str], others: str | Iterable[str]) -> None:
        """Keep everything between these two groups on its way until `release`."""
        self._between("hold", some, others, self.network.hold)

    def release(self, some: str | Iterable[str], others: str | Iterable[str]) -> None:
        """Let what was held between these two groups arrive."""
        self._between("release", some, others, self.network.release)

    def reset(self, some: str | Iterable[str], others: str | Iterable[str]) -> None:
        """Break every connection between these two groups at once; new ones can be made."""
        self._between("reset", some, others, self.network.reset)

    def heal(self) -> None:
        """End every partition and every hold."""
        self._tell("heal")
        self.network.heal_all()

    def pause(self, name: str) -> None:
        """Let a node neither send nor receive until `resume`. Its clocks go on."""
        self._tell(f"pause {name}")
        self.network.pause(name)

    def resume(self, name: str) -> None:
        """The end of a pause."""
        self._tell(f"resume {name}")
        self.network.resume(name)

    def shape(
        self,
        some: str | Iterable[str],
        others: str | Iterable[str],
        *,
        one_way: bool = False,
        **changes: float,
    ) -> None:
        """Change what lies between two groups: `delay_s`, `jitter_s`, `loss`, `bytes_per_s`."""
        facts = " ".join(f"{field}={value:g}" for field, value in changes.items())
        self._between(f"shape {facts}", some, others, self.network.shape, one_way=one_way, **changes)

    def _between(
        self,
        what: str,
        some: str | Iterable[str],
        others: str | Iterable[str],
        act: Callable[..., None],
        *,
        one_way: bool = False,
        **changes: float,
    ) -> None:
        left, right = _names(some), _names(others)
        arrow = "→" if one_way else "|"
        self._tell(f"{what}: {','.join(left)} {arrow} {','.join(right)}")
        for a, b in itertools.product(left, right):
            if a != b:
                act(a, b, **({"one_way": True} if one_way else {}), **changes)

    # --- Time and trace ---

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

    def explain(self, error: BaseException) -> None:
        """Note the seed and the last events on an error, where tracebacks show them."""
        error.add_note(f"Seed {self.seed} does this every time. What happened:\n{self.timeline.told()}")

    def _tell(self, what: str) -> None:
        self.timeline.add(what)
        self.note(what)

    def _seams(self, name: str) -> Seams:
        host = self.host(name)
        self._lives += 1  # a node that starts again does not draw the same numbers again
        return Seams(
            wall=lambda: EPOCH_S + host.ahead_s + trio.current_time(),
            rng=self._random(f"rng {name} {self._lives}"),
            entropy=self._random(f"entropy {name} {self._lives}").randbytes,
            blocking=inline,
            durable=False,  # power fails here too, but the machine that simulates it keeps its own
            verify=self._verify,
            read=self._read,
            free_memory_bytes=lambda: MEMORY_BYTES,
            look=lambda: host.reading,
        )

    def _random(self, purpose: str) -> random.Random:
        """A source of its own for each purpose, so that more use of one leaves the others as they were."""
        return random.Random(f"{self.seed} {purpose}")

    def _connect_by_matrix(self, name: str) -> None:
        if self._matrix is None:
            return
        rows = dict(zip(self.hosts, itertools.cycle(self._rows), strict=False))
        for other in [each for each in rows if each != name]:
            for a, b in ((name, other), (other, name)):
                self.network.shape(a, b, one_way=True, delay_s=self._matrix[rows[a]][rows[b]] / 2)

    def _on_message(self, source: str, target: str, message: bytes) -> None:
        self.messages += 1
        self.sent_bytes[source] += len(message)
        self._trace.update(f"{trio.current_time()} {source} {target} {len(message)} ".encode() + message)

    def _read(self, raw: bytes) -> Record:
        """Read a record once, for the same reason: it is frozen, and the same one for all."""
        if (record := self._records.get(raw)) is None:
            if len(self._records) >= VERIFIED_MAX:
                self._records.clear()
            record = self._records[raw] = read_record(raw)
        return record

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
    delay_s: tuple[float, float] = DELAY_S,
    matrix: Matrix | None = None,
    log_level: int = logging.INFO,
) -> T:
    """Run `play(simulation)` in virtual time, on disks that are gone afterwards; what it returns.

    An error that comes out carries the seed and the last events as a note, which tracebacks show. What nodes
    log at `log_level` or above is in the timeline, and nowhere else.
    """

    async def run() -> T:
        try:
            async with trio.open_nursery() as nursery:
                simulation = Simulation(seed, Path(root), nursery, delay_s=delay_s, matrix=matrix)
                logs.enter_context(simulation.timeline.of_logs(log_level))
                played = await outcome.acapture(play, simulation)
                nursery.cancel_scope.cancel()
            return played.unwrap()
        except Exception as error:  # the play's, or a node's own
            simulation.explain(error)
            raise

    with tempfile.TemporaryDirectory(prefix="meshnode-sim-") as root, ExitStack() as logs, untraced():
        return run_virtual(seed, run)


def _call_at() -> CallAt | None:
    clock = trio.lowlevel.current_clock()
    return clock.call_at if isinstance(clock, VirtualClock) else None


def _complete(settings: dict[str, Any]) -> dict[str, Any]:
    return {"engine": "scripted", "slots": 4, **settings}


def _names(group: str | Iterable[str]) -> tuple[str, ...]:
    return (group,) if isinstance(group, str) else tuple(group)
