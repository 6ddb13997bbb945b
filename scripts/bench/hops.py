"""What distance costs: tokens/s and time to first token at 0 to 3 links, against the worker alone.

One line of four real node processes, the model at its end; the same question is asked at each node's API, and
of a worker through its own pipe, in turn, several rounds in one run. Medians. One compute thread on both sides
has a bound; two threads, which the nodes' own work has to share, are printed beside it.
"""

import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import msgspec
import shape
import trio

from meshnode.engine.base import EngineState
from meshnode.engine.model_file import ModelFile
from meshnode.engine.process import LlamaEngine
from meshnode.models.pull import pull
from meshnode.models.store import ModelStore
from meshnode.seams import in_thread
from meshnode.terms import End, Job, Piece, Sampling, Turn, Wish
from meshnode.testing.local_mesh import raise_line

MODEL = "smollm2:135m"
QUESTION = "Tell me a long story about a lighthouse keeper and the sea, with many details."
LINKS = (0, 1, 2, 3)
KEEPS = ">= 0.9"
SCOPE = b"bench"  # the nodes remember what was asked before, and so does the worker


class Run(msgspec.Struct, frozen=True):
    """One answer: seconds to the first token, and tokens per second after it."""

    first_s: float
    tps: float


async def ask_worker(engine: LlamaEngine, tokens: int) -> Run:
    """One answer straight from the worker's pipe."""
    job = Job(
        id="bench",
        wish=Wish(model=MODEL),
        turns=(Turn(role="user", content=QUESTION),),
        sampling=Sampling(temperature=0.0, max_tokens=tokens),
    )
    begun = time.perf_counter()
    stamps: list[float] = []
    count = 0
    async with engine.run(job, SCOPE) as pieces:
        async for piece in pieces:
            if isinstance(piece, Piece):
                stamps.append(time.perf_counter())
            if isinstance(piece, End):
                count = piece.usage.completion_tokens
    return _run(begun, stamps, count)


async def ask_node(client: httpx2.AsyncClient, url: str, tokens: int) -> Run:
    """One answer through a node's API."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "mesh": {"cache": "off"},
    }
    begun = time.perf_counter()
    stamps: list[float] = []
    count = 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError((await response.aread()).decode())
        async for line in response.aiter_lines():
            if '"content":"' in line and '"content":""' not in line:
                stamps.append(time.perf_counter())
            elif '"usage":{' in line:
                count = msgspec.json.decode(line.removeprefix("data: "))["usage"]["completion_tokens"]
    return _run(begun, stamps, count)


def _run(begun: float, stamps: list[float], count: int) -> Run:
    return Run(stamps[0] - begun, (count - 1) / (stamps[-1] - stamps[0]))


async def measure(threads: int, rounds: int, tokens: int) -> dict[str, list[Run]]:
    """Every distance and the worker alone, in turn, for each round; one more at first that does not count."""
    runs: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as root:
        async with AsyncExitStack() as stack:
            engine = await _worker(stack, Path(root), threads)
            options = ("--threads", str(threads))
            line = await raise_line(stack, Path(root), len(LINKS), options)
            await line[-1].event("ready")
            for node in line:
                await node.until(lambda seen: bool(seen.models))
            urls = [await node.api_url() for node in reversed(line)]
            client = await stack.enter_async_context(httpx2.AsyncClient(timeout=120))
            for _ in range(rounds + 1):
                runs.setdefault("worker", []).append(await ask_worker(engine, tokens))
                for links in LINKS:
                    runs.setdefault(f"{links}", []).append(await ask_node(client, urls[links], tokens))
    return {name: found[1:] for name, found in runs.items()}


async def _worker(stack: AsyncExitStack, root: Path, threads: int) -> LlamaEngine:
    """A worker of our own, ready, with the same model file as the nodes have."""
    model = await pull(MODEL, ModelStore(root / "models"), blocking=in_thread)
    engine = LlamaEngine(
        ModelFile(path=str(model.path), digest=model.digest, name=model.name), thread_count=threads
    )
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    ready = trio.Event()
    engine.watch(lambda: ready.set() if engine.state is EngineState.READY else None)
    nursery.start_soon(engine.serve)
    await ready.wait()
    return engine


def rows_of(runs: dict[str, list[Run]], threads: int) -> list[shape.Row]:
    """The comparison for one number of threads."""
    bound = KEEPS if threads == 1 else ""
    label = f"{threads} thread{'s' if threads > 1 else ''}"
    alone_tps = statistics.median(run.tps for run in runs["worker"])
    first_ms = {name: 1000 * statistics.median(run.first_s for run in found) for name, found in runs.items()}
    rows = []
    for links in LINKS:
        tps = statistics.median(run.tps for run in runs[str(links)])
        rows.append(shape.Row(f"{links} links, {label}", tps, "tokens/s", alone_tps, "worker alone", bound))
    for links in LINKS:
        before = first_ms[str(links - 1)] if links else first_ms["worker"]
        name = f"first token, {links} links, {label}: {first_ms[str(links)] - before:+.1f} ms"
        rows.append(shape.Row(name, first_ms[str(links)], "ms", first_ms["worker"], "worker alone"))
    return rows


def main() -> int:
    """Run the benchmark."""
    parser = shape.arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="answers that count, at each distance")
    parser.add_argument("--tokens", type=int, default=128, help="the length of each answer")
    options = parser.parse_args()
    rows = []
    for threads in (1, 2):
        rows += rows_of(trio.run(measure, threads, options.rounds, options.tokens), threads)
    return shape.report("hops", rows, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
