"""Two hundred streams at once through one node, for a minute: what is dropped, how even they come, what they take.

The engine is scripted, and writes each answer at ten tokens a second: at the node itself (`--hops 0`), or at four
workers one link away (`--hops 1`). The clients are one process of their own (`crowd.py`). They come a second time
with slow ones among them, who must cost the others nothing, and a third time over one link. At last 1,000 connections
idle.
"""

import os
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import psutil
import shape
import trio
from crowd import Ask, Heard

from meshnode.testing.processes import UP, NodeProcess, node_process

NODE = (str(shape.HERE / "load_node.py"), *UP[2:])
MODEL = "smollm2:135m"
RATE = 10.0  # tokens a second, of each answer
SLOTS_MAX = 64  # of a worker: a node takes no more, nor does a link carry more streams of one end
GAP_MS, STANDS_MS, GROWTH_MB = 250.0, 2000.0, 20.0
LATE_MS = 50.0  # a client that wakes later than that has not measured the node
WITHIN = 1 / 12  # of an answer's time all clients come,
WARM = 1 / 4  # and memory is warm
CUT_S = 45.0  # by then a client that reads nothing has filled all buffers, and has been waited for
LOOK_S = 0.5
READY_S = 60.0
ON_ONE_LINK = 60
IDLE, IDLE_MAX, ANSWER_MS = 1000, 256, 1000.0


@dataclass
class Mesh:
    """The node that is asked, and those that work for it."""

    front: NodeProcess
    workers: list[NodeProcess] = field(default_factory=list)

    @property
    def nodes(self) -> list[psutil.Process]:
        """Their processes, the asked one's first."""
        return [psutil.Process(node.process.pid) for node in (self.front, *self.workers)]


@dataclass
class Outcome:
    """One run: what the clients heard, and what was seen at the nodes.

    `growth_mb` is that of the resident memory of the node that grew most, after the warm-up; `front_s` the asked
    node's processor time, and `waited_s` how long it was ready to run and had no core (0 where the system does not
    tell). `left` is how many requests were under way there once the good ones had ended.
    """

    heard: Heard
    growth_mb: float
    memory_mb: float
    front_s: float
    waited_s: float
    left: int


@asynccontextmanager
async def raised(root: Path, workers: int, slots: int) -> AsyncIterator[Mesh]:
    """A node with a scripted engine of its own, or, with workers, one without any that is linked to each of them."""
    paced = {**os.environ, "LOAD_SLOTS": str(slots), "LOAD_RATE": str(RATE)}
    paced["MESHNODE_OWNER_SLOTS"] = "0"  # else the last of the 64 streams of a link would wait for one

    async with AsyncExitStack() as stack:

        async def start(name: str, engine: str) -> NodeProcess:
            options = ("--name", name, "--engine", engine, "--model", MODEL)
            program = UP if engine == "none" else NODE
            return await stack.enter_async_context(
                node_process(root / name, options, program=program, env=paced)
            )

        mesh = Mesh(await start("front", "none" if workers else "scripted"))
        address = await mesh.front.mesh_address()
        for number in range(workers):
            worker = await start(f"worker{number}", "scripted")
            await worker.mesh_address()
            await worker.call("join", target=await mesh.front.invite(), leave=False, via=address)
            mesh.workers.append(worker)
        with trio.fail_after(READY_S):
            await mesh.front.until(lambda seen: _serving(seen) >= max(1, workers))
        yield mesh


def _serving(seen) -> int:
    return sum(len(model.nodes) for model in seen.models)


async def play(mesh: Mesh, ask: Ask) -> Outcome:
    """One run of all clients."""
    watch = _Watch(mesh)
    before = _processor_s(mesh.nodes[0])
    command = [sys.executable, str(shape.HERE / "crowd.py"), await mesh.front.api_url()]
    command.append(msgspec.json.encode(ask).decode())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.look, WARM * ask.tokens / RATE)
        done = await trio.run_process(command, capture_stdout=True)
        nursery.cancel_scope.cancel()
    worked_s, waited_s = (now - then for now, then in zip(_processor_s(mesh.nodes[0]), before, strict=True))
    return Outcome(
        msgspec.json.decode(done.stdout, type=Heard),
        watch.growth_mb,
        watch.memory_mb,
        worked_s,
        waited_s,
        watch.under_way[-1],
    )


def _processor_s(node: psutil.Process) -> tuple[float, float]:
    """Seconds that a process has worked, and that its main thread has waited for a core."""
    times, told = node.cpu_times(), Path(f"/proc/{node.pid}/schedstat")
    waited_ns = int(told.read_text(encoding="utf-8").split()[1]) if told.exists() else 0
    return times.user + times.system, waited_ns / 1e9


class _Watch:
    """Looks at the nodes again and again while clients are there."""

    def __init__(self, mesh: Mesh) -> None:
        self._front, self._nodes = mesh.front, mesh.nodes
        self.growth_mb = self.memory_mb = 0.0
        self.under_way: list[int] = []

    async def look(self, warm_s: float) -> None:
        """Until cancelled; what grows counts after so many seconds."""
        begun, warm = trio.current_time(), []
        while True:
            self.under_way.append((await self._front.snapshot()).under_way)
            now = [node.memory_info().rss / (1 << 20) for node in self._nodes]
            if not warm and trio.current_time() - begun >= warm_s:
                warm = now
            self.memory_mb = max(self.memory_mb, now[0])
            growths = [after - before for after, before in zip(now, warm, strict=False)]
            self.growth_mb = max(self.growth_mb, *growths) if growths else 0.0
            await trio.sleep(LOOK_S)


def rows_of(label: str, ask: Ask, got: Outcome) -> list[shape.Row]:
    """The figures of one run, each against its bound."""
    gaps, late = got.heard.gaps_ms, got.heard.late_ms
    for dropped in got.heard.dropped[:3]:
        print(f"{label}: broke off with {dropped!r}", file=sys.stderr)
    return [
        shape.bounded(f"{label}: dropped", ask.good - got.heard.ended, "streams", 0),
        shape.bounded(f"{label}: gap, p99", shape.percentile(gaps, 99), "ms", GAP_MS),
        shape.bounded(f"{label}: gap, longest", max(gaps), "ms", STANDS_MS),
        shape.bounded(f"{label}: the client's own lateness, p99", shape.percentile(late, 99), "ms", LATE_MS),
        shape.bounded(f"{label}: memory gained of {got.memory_mb:.0f} MiB", got.growth_mb, "MiB", GROWTH_MB),
        shape.Row(
            f"{label}: the asked node's time for an event",
            1e6 * got.front_s / got.heard.events,
            "µs",
            1e6 * got.heard.processor_s / got.heard.events,
            "the clients'",
        ),
        shape.Row(
            f"{label}: the asked node waited for a core",
            1000 * got.waited_s,
            "ms",
            1000 * got.front_s,
            "worked",
        ),
    ]


def row_of_slow(label: str, ask: Ask, got: Outcome) -> shape.Row:
    """What became of the slow ones: those who read nothing must be gone in time, those who read a little may stay."""
    name = f"{label}: of {ask.trickling} trickling and {ask.silent} silent ones still served"
    due = ask.trickling if ask.tokens / RATE > CUT_S else ask.trickling + ask.silent
    return shape.bounded(name, got.left, "streams", due)


async def idle(mesh: Mesh) -> list[shape.Row]:
    """Far more connections than a node keeps, none of which says anything; then one that asks."""
    url = httpx2.URL(await mesh.front.api_url())
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(await trio.open_tcp_stream(url.host, url.port or 80))
            for _ in range(IDLE)
        ]
        begun = trio.current_time()
        async with httpx2.AsyncClient(timeout=READY_S) as client:
            body = {
                "model": "auto",
                "max_tokens": 1,
                "messages": [{"role": "user", "content": "Still there?"}],
            }
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
        took_ms = 1000 * (trio.current_time() - begun)
        kept = sum([await _is_open(stream) for stream in streams])
    failed = float(answer.status_code != 200)
    return [
        shape.bounded(f"of {IDLE} idle connections kept", kept, "connections", IDLE_MAX),
        shape.bounded("a request beside them: refused", failed, "requests", 0),
        shape.bounded("a request beside them: answered after", took_ms, "ms", ANSWER_MS),
    ]


async def _is_open(stream: trio.SocketStream) -> bool:
    """Whether nothing has come on it, not even its end."""
    try:
        with trio.move_on_after(0.001):
            await stream.receive_some(1)
            return False
    except trio.BrokenResourceError:
        return False
    return True


async def measure(hops: int, streams: int, slow: int, seconds: float) -> list[shape.Row]:
    """All runs at one distance."""
    plain = Ask(good=streams, tokens=round(RATE * seconds), start_s=WITHIN * seconds)
    mixed = msgspec.structs.replace(plain, good=streams - slow, trickling=slow // 2, silent=slow - slow // 2)
    workers, slots = (-(-streams // (SLOTS_MAX - 4)), SLOTS_MAX) if hops else (0, streams + slow)
    label = f"{hops} hop{'' if hops == 1 else 's'}"
    with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as directory:
        async with raised(Path(directory) / "many", workers, slots) as mesh:
            rows = rows_of(f"{label}, {streams} streams", plain, await play(mesh, plain))
            if slow:
                rows += _slow_rows(f"{label}, {slow} of {streams} slow", mixed, await play(mesh, mixed))
            if not hops:
                rows += await idle(mesh)
        if hops and slow:
            narrow = msgspec.structs.replace(mixed, good=ON_ONE_LINK - slow)
            async with raised(Path(directory) / "one", 1, SLOTS_MAX) as mesh:
                got = await play(mesh, narrow)
                rows += _slow_rows(f"one link, {slow} of {ON_ONE_LINK} slow", narrow, got)
    return rows


def _slow_rows(label: str, ask: Ask, got: Outcome) -> list[shape.Row]:
    return [*rows_of(label, ask, got), row_of_slow(label, ask, got)]


def main() -> int:
    """Run the benchmark."""
    parser = shape.arguments(__doc__.splitlines()[0])
    parser.add_argument("--hops", type=int, choices=(0, 1), help="only this distance to the workers")
    parser.add_argument("--streams", type=int, default=200, help="how many at once")
    parser.add_argument("--slow", type=int, default=20, help="how many of them are slow the second time")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each answer takes")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rows: list[shape.Row] = []
    for hops in (0, 1) if options.hops is None else (options.hops,):
        rows += trio.run(measure, hops, options.streams, options.slow, options.seconds)
    return shape.report("load", rows, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
