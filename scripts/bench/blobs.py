"""Weights from three nodes at once, one of them killed and one of them lying, against what each gives alone.

Real processes over real websockets on loopback, 98 MB of a real model. Each round measures every peer alone, the
three together, and the three together while one gives a wrong chunk after a quarter of the file and is found out,
and another is killed at the half; the last is held against what those that were there at each moment give alone.

The peers of these rows send at a set rate, as over a home's uplink: four processes share one machine's cores, so
without it the sum of three would count the same cores three times. Without a rate, three at once are held against
three pulls at once by three nodes, which is all that this machine can carry. And an answer that is streamed over the
same link as a pull is held against the same answer without one.
"""

import hashlib
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shape
import streams
import trio

from meshnode.cli import client
from meshnode.mesh.chunks import ChunkList
from meshnode.models.pull import warm
from meshnode.models.share import keep_list
from meshnode.models.store import ModelStore
from meshnode.seams import in_thread
from meshnode.testing.processes import NodeProcess, node_process
from meshwire.limits import BLOB_CHUNK_MIN

PROGRAM = (str(Path(__file__).with_name("blob_node.py")), "up", "--json")
MODEL = "smollm2:135m"
PEERS = ("b", "c", "d")
KILLED, LIAR = "b", "c"
WRONG_AFTER = 8
KEEPS, FLOWS = ">= 0.8", ">= 0.9"
TOKENS = 96
QUESTION = "Tell me a long story about a lighthouse keeper and the sea, with many details."


@dataclass
class Pulled:
    """One pull: how long it took, what came of it, and after how many seconds peers were of no use any more."""

    took_s: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    gone_s: dict[str, float] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """Who is named as having given what is not the model."""
        return [peer["name"].split("#")[0] for peer in self.result["peers"] if peer["wrong"]]


class Stage:
    """The model file, and nodes around it that come and go."""

    def __init__(self, root: Path, model: Path) -> None:
        self.model = model
        self.digest = model.name.removeprefix("sha256-")
        self.size_bytes = model.stat().st_size
        self._root = root
        self._homes = 0
        content = model.read_bytes()
        chunks = [content[at : at + BLOB_CHUNK_MIN] for at in range(0, len(content), BLOB_CHUNK_MIN)]
        self._hashes = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)

    async def node(
        self, stack: AsyncExitStack, name: str, *options: str, program: tuple[str, ...] = PROGRAM, **env: str
    ) -> NodeProcess:
        """A node on a machine of its own, as far as its files go."""
        self._homes += 1
        home = self._root / f"{name}-{self._homes}"
        world = {**os.environ, "XDG_CACHE_HOME": str(home / "cache"), "BLOB_DIGEST": self.digest, **env}
        opened = node_process(home, ("--name", name, *options), program=program, env=world)
        node = await stack.enter_async_context(opened)
        await node.event("mesh")
        return node

    async def peer(
        self, stack: AsyncExitStack, name: str, ticket: str, rate_kb: int, *, lies: bool = False
    ) -> NodeProcess:
        """A node that has the file, in the mesh of the ticket."""
        env = {"BLOB_WRONG_AFTER": str(WRONG_AFTER)} if lies else {}
        env["MESHNODE_SHARE_KB_PER_S"] = str(rate_kb)
        node = await self.node(stack, name, "--engine", "scripted", "--model", MODEL, **env)
        await node.call("pull", source=str(self.model), name=MODEL, sha256=self.digest)
        await node.call("join", target=ticket)
        return node

    async def pull(self, names: tuple[str, ...], rate_kb: int, *, faults: bool = False) -> Pulled:
        """One pull of the whole file by a new node, from these peers."""
        async with AsyncExitStack() as stack:
            puller = await self.node(stack, "a", "--engine", "none")
            peers = {}
            for name in names:
                lies = faults and name == LIAR
                peers[name] = await self.peer(stack, name, await puller.invite(), rate_kb, lies=lies)
            await puller.until(lambda seen: sum(len(one.nodes) for one in seen.models) == len(names))
            self._prepare(*peers.values())
            return await self._timed(puller, peers if faults else {})

    def _prepare(self, *peers: NodeProcess) -> None:
        """Hand the peers the list of chunks, which a node works out once for all who will ever ask."""
        promise = ChunkList(self.size_bytes, BLOB_CHUNK_MIN, self._hashes)
        for node in peers:
            keep_list(node.home / "models" / "chunks" / self.digest, promise)

    async def _timed(self, puller: NodeProcess, faulty: dict[str, NodeProcess]) -> Pulled:
        pulled = Pulled()
        most = 0
        begun = time.perf_counter()

        def watch(event: dict[str, Any]) -> None:
            nonlocal most
            now, giving = time.perf_counter() - begun, event.get("peers", 0)
            if faulty and giving < most and LIAR not in pulled.gone_s:
                pulled.gone_s[LIAR] = now
            most = max(most, giving)
            if faulty and KILLED not in pulled.gone_s and 2 * event["done"] >= event["total"] > 0:
                faulty[KILLED].kill()
                pulled.gone_s[KILLED] = now

        arguments = {"source": f"mesh:{MODEL}"}
        pulled.result = await client.call(puller.home, "pull", arguments, dict, watch)
        pulled.took_s = time.perf_counter() - begun
        if pulled.result["digest"] != self.digest:
            raise RuntimeError("what came is not the model")
        if pulled.wrong != ([LIAR] if faulty else []):
            raise RuntimeError(f"blamed were {pulled.wrong}")
        return pulled

    async def pairs(self) -> float:
        """Bytes per second of three pulls at once, each by a node of its own from a peer of its own."""
        async with AsyncExitStack() as stack:
            pullers = []
            for name in PEERS:
                puller = await self.node(stack, f"a{name}", "--engine", "none")
                peer = await self.peer(stack, name, await puller.invite(), 0)
                await puller.until(lambda seen: bool(seen.models))
                self._prepare(peer)
                pullers.append(puller)
            begun = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for puller in pullers:
                    nursery.start_soon(self._timed, puller, {})
            return len(PEERS) * self.size_bytes / (time.perf_counter() - begun)

    async def answers(self, rounds: int) -> tuple[list[float], list[float]]:
        """Tokens per second of an answer over a link, without and with a pull over the same link."""
        alone, beside = [], []
        async with AsyncExitStack() as stack:
            puller = await self.node(stack, "a", "--engine", "none")
            worker = await self.node(
                stack, "b", "--model", MODEL, "--threads", "1", program=("-m", "meshnode.cli.main", "up", "--json"),
                XDG_CACHE_HOME=str(self.model.parent.parent.parent),
            )  # fmt: skip
            await worker.until_ready()
            await worker.call("join", target=await puller.invite())
            await puller.until(lambda seen: bool(seen.models))
            url = await puller.api_url()
            await _answer(url)
            for _ in range(rounds):
                alone.append(await _answer(url))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._timed, puller, {})
                    await trio.sleep(0.5)
                    beside.append(await _answer(url))
                    if nursery.child_tasks == set():
                        raise RuntimeError("the pull was over before the answer")
                await puller.call("rm", name=MODEL)
        return alone, beside


async def _answer(url: str) -> float:
    """Tokens per second of one answer, after its first."""
    conversation = [{"role": "user", "content": QUESTION}]
    (heard,) = await streams.ask_all(url, MODEL, [conversation], TOKENS)
    return (heard.usage["completion_tokens"] - 1) / (heard.ended_s - heard.first_s)


def carried_mb_s(alone: dict[str, float], pulled: Pulled) -> float:
    """What those that were there at each moment of a pull give alone, in MB/s, over the whole of it."""
    return sum(rate * pulled.gone_s.get(name, pulled.took_s) for name, rate in alone.items()) / pulled.took_s


async def measure(stage: Stage, rounds: int, rate_kb: int) -> list[shape.Row]:
    """All rows."""
    size_mb = stage.size_bytes / 1e6
    three, faulty, plain, free = [], [], [], []
    for number in range(rounds):
        alone = {name: size_mb / (await stage.pull((name,), rate_kb)).took_s for name in PEERS}
        three.append((size_mb / (await stage.pull(PEERS, rate_kb)).took_s, sum(alone.values())))
        with_faults = await stage.pull(PEERS, rate_kb, faults=True)
        faulty.append((size_mb / with_faults.took_s, carried_mb_s(alone, with_faults)))
        plain.append((size_mb / with_faults.took_s, sum(alone.values())))
        free.append((size_mb / (await stage.pull(PEERS, 0)).took_s, await stage.pairs() / 1e6))
        told = f"round {number + 1}: alone {[round(rate, 1) for rate in alone.values()]}, three {three[-1][0]:.1f}"
        print(f"{told}, with faults {faulty[-1][0]:.1f}, gone at {with_faults.gone_s}", file=sys.stderr)
    quiet, beside = await stage.answers(rounds)
    rate = f"{rate_kb / 1024:g} MiB/s each"
    return [
        _row(f"three at once, {rate}", three, "sum of each alone", KEEPS),
        _row(f"one killed, one found out, {rate}", faulty, "those that were there", KEEPS),
        _row(f"the same, against all three, {rate}", plain, "sum of each alone", ""),
        _row("three at once, no rate", free, "three pulls at once", ""),
        _row("an answer over the link of a pull", list(zip(beside, quiet, strict=True)), "without the pull", FLOWS,
             "tokens/s"),
    ]  # fmt: skip


def _row(
    name: str, pairs: list[tuple[float, float]], rival: str, bound: str, unit: str = "MB/s"
) -> shape.Row:
    ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
    paired = statistics.median(mine / other for mine, other in pairs)
    return shape.Row(name, ours, unit, theirs, rival, bound, paired)


async def run(root: Path, rounds: int, rate_kb: int) -> list[shape.Row]:
    """Everything, around the model that is in this machine's cache."""
    model = await warm(MODEL, ModelStore(root / "models"), blocking=in_thread)
    return await measure(Stage(root, model), rounds, rate_kb)


def main() -> int:
    """Run the benchmark."""
    parser = shape.arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds, each with every row")
    parser.add_argument("--rate", type=int, default=5120, help="KiB a second that a peer sends")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as root:
        rows = trio.run(run, Path(root), options.rounds, options.rate)
    return shape.report("blobs", rows, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
