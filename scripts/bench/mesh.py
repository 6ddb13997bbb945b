"""How a mesh holds up: joining, crashes, partitions, idle talk and broken streams, simulated, seed after seed.

Every figure is of virtual time on the simulator's network, with whole nodes; beside each stands what was promised,
and what others publish for theirs. `python scripts/bench/mesh.py [--json] [--seeds N]
[--matrix FILE]`: with a table of measured round trips (Seattle's, from the NetLatency-Data set on GitHub) delays
are real ones.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "protocol"), str(HERE)]

import trio  # noqa: E402 - the paths come first
from shape import Row, arguments, percentile, report  # noqa: E402

from meshnode.errors import MeshError  # noqa: E402
from meshnode.mesh.book import RecordBook  # noqa: E402
from meshnode.node import Node  # noqa: E402
from meshnode.terms import Emitted, End, Piece  # noqa: E402
from meshnode.testing.roundtrips import Matrix, read_matrix  # noqa: E402
from meshnode.testing.simulation import Simulation, simulate  # noqa: E402
from meshwire.ids import NodeId  # noqa: E402

Play = Callable[[Simulation], Awaitable[Sequence[float]]]
GIVEN_UP_S = 120.0
PARTED_S, TALK_S = 60.0, 30.0


@dataclass(frozen=True)
class Test:
    """One row: its seeds, what it plays, and the bound on a percentile of all that the plays return, in `unit`."""

    name: str
    seeds: int
    play: Play
    bound: float
    percentile: int = 99
    anchor: str = "promised"
    matrix: bool = True
    unit: str = "s"


def names(count: int) -> list[str]:
    """n0, n1, …"""
    return [f"n{number}" for number in range(count)]


async def start(simulation: Simulation, count: int) -> list[Node]:
    """So many nodes, each on its own; every second has a model."""
    engines = ("scripted", "none")
    return [
        await simulation.start(name, engine=engines[number % 2]) for number, name in enumerate(names(count))
    ]


async def join(nodes: Sequence[Node]) -> None:
    """All join the mesh of the first, at once."""
    tickets = [await nodes[0].invite() for _ in nodes[1:]]
    async with trio.open_nursery() as nursery:
        for node, ticket in zip(nodes[1:], tickets, strict=True):
            nursery.start_soon(node.join, ticket)


async def gather(simulation: Simulation, count: int) -> list[Node]:
    """So many nodes of one mesh."""
    nodes = await start(simulation, count)
    await join(nodes)
    return nodes


async def until_each(nodes: Sequence[Node], holds: Callable[[Node], bool], since: float) -> list[float]:
    """Seconds since then until it holds at each node; GIVEN_UP_S for those where it never does."""
    took = dict.fromkeys((node.config.name for node in nodes), GIVEN_UP_S)
    left = list(nodes)
    with trio.move_on_after(GIVEN_UP_S):
        while left:
            for node in [node for node in left if holds(node)]:
                took[node.config.name] = trio.current_time() - since
                left.remove(node)
            await trio.sleep(0.05)
    return list(took.values())


def joining(count: int) -> Play:
    """Until each knows all others and what they offer, since all began to join."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await start(simulation, count)
        since, offering = trio.current_time(), len(nodes[::2])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, nodes)
            return await until_each(nodes, lambda node: knows(node, count, offering), since)

    return play


def knows(node: Node, count: int, offering: int) -> bool:
    """Whether a node knows all members and all models on offer."""
    if node.presence is None or len(node.presence.view()) < count - 1:
        return False
    return len({name for model in node.models() for name in model.nodes}) == offering


def parting(count: int, *, one_way: bool) -> Play:
    """Until all books agree again, since a partition into halves was healed."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, count)
        await trio.sleep(10)
        half = names(count)[: count // 2]
        rest = names(count)[count // 2 :]
        simulation.partition(half, rest, one_way=one_way)
        await trio.sleep(PARTED_S)
        simulation.heal()
        since = trio.current_time()
        goal = {node.identity.node: book_of(node).last_seq for node in nodes}
        return await until_each(nodes, lambda node: has_all(node, goal), since)

    return play


def book_of(node: Node) -> RecordBook:
    """What a node on a mesh knows."""
    assert node.presence is not None
    return node.presence.book


def has_all(node: Node, goal: Mapping[NodeId, int]) -> bool:
    """Whether a node has every other's records up to these versions."""
    book = book_of(node)
    return all(book.version(other) >= seq for other, seq in goal.items() if other != book.own)


def crashing(count: int, *, silent: bool, loss: float = 0.0) -> Play:
    """Until no other node sees a way to one that crashed."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, count)
        await trio.sleep(15)
        simulation.shape(names(count), names(count), loss=loss)
        gone = nodes[count // 2]
        await simulation.crash(gone.config.name, silent=silent)
        since, who = trio.current_time(), gone.identity.node
        left = [node for node in nodes if node is not gone]
        return await until_each(left, lambda node: not sees_way(node, who), since)

    return play


def sees_way(node: Node, other: NodeId) -> bool:
    """Whether a node believes that it can reach another."""
    peer = node.presence.view().get(other) if node.presence is not None else None
    return peer is not None and peer.route is not None


def talking(count: int) -> Play:
    """Kilobytes that each node sends in a second, while nothing happens."""

    async def play(simulation: Simulation) -> Sequence[float]:
        await gather(simulation, count)
        await trio.sleep(20)
        before = simulation.sent_bytes.copy()
        await trio.sleep(TALK_S)
        return [(simulation.sent_bytes[name] - before[name]) / TALK_S / 1000 for name in names(count)]

    return play


def breaking(what: str) -> Play:
    """The longest pause of an answer whose worker or link goes in the middle; GIVEN_UP_S unless it is whole."""

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await gather(simulation, 5)
        await trio.sleep(3)
        asker, heard = nodes[1], Heard()
        with trio.move_on_after(GIVEN_UP_S):
            try:
                async with asker.ask("Tell me a long story.", max_tokens=60, deadline_s=60) as running:
                    by = running.answer.served_by.split("#")[0]
                    async for item in running.pieces:
                        heard.take(item)
                        if heard.index > 10 and not heard.broken:
                            heard.broken = True
                            await break_off(simulation, what, asker.config.name, by)
            except MeshError:
                return [GIVEN_UP_S]
        return [heard.longest_s if heard.whole else GIVEN_UP_S]

    return play


async def break_off(simulation: Simulation, what: str, asker: str, by: str) -> None:
    """Take away the worker, or the way to it."""
    if what == "worker":
        await simulation.crash(by)
    else:
        simulation.partition(asker, by)


@dataclass
class Heard:
    """What has come of an answer: the next index, the longest pause since it broke, and whether it is whole."""

    index: int = 0
    ends: int = 0
    in_order: bool = True
    broken: bool = False
    longest_s: float = 0.0
    last_at: float = 0.0

    def take(self, item: Emitted) -> None:
        """One more item."""
        now = trio.current_time()
        if self.broken:
            self.longest_s = max(self.longest_s, now - self.last_at)
        self.last_at = now
        self.ends += isinstance(item, End)
        if isinstance(item, Piece):
            self.in_order = self.in_order and item.first_index == self.index
            self.index += len(item.ids)

    @property
    def whole(self) -> bool:
        """Whether it broke, and still has every index once, and one end."""
        return self.broken and self.in_order and self.ends == 1


TESTS = (
    Test("16 nodes join and know each other", 10, joining(16), 5.0),
    Test("100 nodes join and know each other", 1, joining(100), 10.0, matrix=False),
    Test("16 nodes see a crash that closes connections", 10, crashing(16, silent=False), 5.0),
    Test("16 nodes see a silent crash", 10, crashing(16, silent=True), 10.0, anchor="chitchat: 10 s"),
    Test("16 nodes see a silent crash at 50% loss", 5, crashing(16, silent=True, loss=0.5), 15.0),
    Test("a node of 16 says, while idle", 2, talking(16), 20.0, 50, unit="kB/s"),
    Test(
        "a node of 100 says, while idle",
        1,
        talking(100),
        20.0,
        50,
        "chitchat: 120",
        matrix=False,
        unit="kB/s",
    ),
    Test(
        "16 nodes agree after a partition",
        10,
        parting(16, one_way=False),
        10.0,
        anchor="serf redials at 30 s",
    ),
    Test("16 nodes agree after a one-way partition", 10, parting(16, one_way=True), 10.0),
    Test("an answer goes on after its worker's crash", 20, breaking("worker"), 5.0),
    Test("an answer goes on after its link fell silent", 20, breaking("link"), 15.0),
)


def measured(test: Test, seeds: int, matrix: Matrix | None) -> Row:
    """Play a test with every seed."""
    values: list[float] = []
    for seed in range(seeds):
        values += simulate(seed, test.play, matrix=matrix if test.matrix else None)
    value = percentile(values, test.percentile)
    name = f"{test.name}, p{test.percentile} of {seeds} seeds"
    print(f"{name}: {value:.2f} {test.unit}", file=sys.stderr)
    scale, unit = (1000, "ms") if test.unit == "s" else (1, test.unit)
    return Row(name, value * scale, unit, test.bound * scale, test.anchor, "<= 1")


def main() -> int:
    """Parse, play, report."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, help="so many for every row, instead of each row's own")
    parser.add_argument("--matrix", type=Path, help="measured round trips in seconds, a square table")
    given = parser.parse_args()
    matrix = read_matrix(given.matrix) if given.matrix else None
    rows = [measured(test, given.seeds or test.seeds, matrix) for test in TESTS]
    return report("mesh", rows, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
