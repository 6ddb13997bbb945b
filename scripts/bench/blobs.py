"""Weights from three nodes at once, one of them killed and one of them lying, against what each gives alone.

Real processes over real websockets on loopback. Each round measures every peer alone, then the three together,
then the three together with one killed at half of the file and one that gives a wrong chunk. The peers of the rows
with a bound send at a set rate, as over a home's uplink: all four processes share one machine's cores, so without
it the sum of three would be a sum of the same cores; the rows without a rate only inform.
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
import trio

from meshnode.models.pull import warm
from meshnode.models.store import ModelStore
from meshnode.seams import in_thread
from meshnode.testing.processes import NodeProcess, node_process

HERE = Path(__file__).resolve().parent
MODEL = "smollm2:135m"
PROGRAM = (os.environ.get("PROG", str(HERE / "blob_node.py")), "up", "--json")
PEERS = ("b", "c", "d")
KILLED, LIAR = "b", "c"
WRONG_AFTER = 8
KEEPS = ">= 0.8"


@dataclass
class Pulled:
    """One pull: seconds, the result, and seconds from its begin to when each peer was of no use any more."""

    took_s: float
    result: Any
    gone_s: dict[str, float] = field(default_factory=dict)


class Field:
    """The model file and the homes of the nodes; what a peer has prepared once it keeps."""

    def __init__(self, root: Path, model: Path, rate_kb: int) -> None:
        self.root = root
        self.model = model
        self.digest = hashlib.sha256(model.read_bytes()).hexdigest()
        self.size_bytes = model.stat().st_size
        self._rate_kb = rate_kb
        self._pulls = 0

    def env(self, name: str, **more: str) -> dict[str, str]:
        """The environment of a node: a cache of its own, and what it is to offer."""
        cache = str(self.root / f"cache-{name}")
        return {**os.environ, "XDG_CACHE_HOME": cache, "BLOB_DIGEST": self.digest, **more}

    async def peer(self, stack: AsyncExitStack, name: str, ticket: str, *, lies: bool) -> NodeProcess:
        """A node that has the file, in the mesh of the ticket."""
        more = {"BLOB_WRONG_AFTER": str(WRONG_AFTER)} if lies else {}
        env = self.env(
            name,
            **({"PROFNAME": name} if os.environ.get("PROF") else {}),
            **more,
            MESHNODE_SHARE_KB_PER_S=str(self._rate_kb),
        )
        options = ("--engine", "scripted", "--model", MODEL, "--name", name)
        home = self.root / f"{name}-{self._pulls}"
        node = await stack.enter_async_context(node_process(home, options, program=PROGRAM, env=env))
        await node.event("mesh")
        await node.call("pull", source=str(self.model), name=MODEL, sha256=self.digest)
        await node.call("join", target=ticket)
        return node

    async def pull(self, names: tuple[str, ...], *, faults: bool = False) -> Pulled:
        """One pull of the whole file by a new node, from these peers."""
        self._pulls += 1
        async with AsyncExitStack() as stack:
            name = f"a{self._pulls}"
            options = ("--engine", "none", "--name", name)
            enter = node_process(
                self.root / name,
                options,
                program=PROGRAM,
                env=self.env(name, **({"PROFNAME": "a"} if os.environ.get("PROF") else {})),
            )
            puller = await stack.enter_async_context(enter)
            await puller.event("mesh")
            peers = {}
            for each in names:
                lies = faults and each == LIAR
                peers[each] = await self.peer(stack, each, await puller.invite(), lies=lies)
            await puller.until(lambda seen: sum(len(one.nodes) for one in seen.models) == len(names))
            return await self._timed(puller, peers, faults=faults)

    async def _timed(self, puller: NodeProcess, peers: dict[str, NodeProcess], *, faults: bool) -> Pulled:
        gone_s: dict[str, float] = {}
        begun = time.perf_counter()

        def watch(event: dict[str, Any]) -> None:
            if faults and KILLED not in gone_s and event.get("step") == "fetching":
                if event["done"] * 2 >= event["total"]:
                    peers[KILLED].kill()
                    gone_s[KILLED] = time.perf_counter() - begun

        from meshnode.cli import client

        arguments = {"source": f"mesh:{MODEL}"}
        result = await client.call(puller.home, "pull", arguments, dict, watch)
        took_s = time.perf_counter() - begun
        if result["digest"] != self.digest:
            raise RuntimeError("the wrong digest")
        return Pulled(took_s, result, gone_s)


def main() -> int:
    """Run the benchmark."""
    parser = shape.arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument(
        "--rate", type=int, default=8192, help="KiB a second that each peer sends in the bound rows"
    )
    options = parser.parse_args()

    async def run() -> list[shape.Row]:
        await warm(MODEL, ModelStore(Path(tempfile.gettempdir()) / "unused"), blocking=in_thread)
        return []

    with tempfile.TemporaryDirectory(prefix="meshnode-bench-") as root:
        import subprocess

        path = Path(
            subprocess.run(
                [sys.executable, "-m", "meshnode.models"], capture_output=True, text=True
            ).stdout.strip()
        )

        async def go():
            f = Field(Path(root), path, int(os.environ.get("RATE", "0")))
            for names in (("b",), ("b", "c", "d"), ("b",), ("b", "c", "d")):
                p = await f.pull(names)
                print(names, f.size_bytes / 1e6 / p.took_s, "MB/s", p.result["peers"])

        trio.run(go)
    return 0


if __name__ == "__main__":
    sys.exit(main())
