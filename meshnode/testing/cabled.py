"""Real node processes on the hosts of a `namespaces.Network`: started, joined, and asked under a steady load.

It looks at nodes from outside only: through their control sockets and their APIs.
"""

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import httpx2
import msgspec
import trio

from meshnode.observe.snapshot import Snapshot
from meshnode.testing.namespaces import Host, Network
from meshnode.testing.processes import NodeProcess, node_process

GRACE_S = 2.0  # past its deadline, for an answer's last word to arrive
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Cabled:
    """A node on its host; `url` is its API, as this machine reaches it."""

    host: Host
    process: NodeProcess
    url: str


@asynccontextmanager
async def node_on(
    host: Host, home: Path, arguments: Sequence[str] = (), *, listen: str = ""
) -> AsyncIterator[Cabled]:
    """A node on a host, listening at its first address, or at `listen`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MESHNODE_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    address = listen or next(iter(host.addresses.values()))
    options = ("--name", host.name, "--mesh-host", address, *arguments)
    async with node_process(home, options, env=env, within=host.program) as process:
        port = int((await process.api_url()).rpartition(":")[2])
        async with host.forwarded(port) as near:
            yield Cabled(host, process, f"http://127.0.0.1:{near}")


async def raised(
    stack: AsyncExitStack, network: Network, root: Path, arguments: Mapping[str, Sequence[str]]
) -> list[Cabled]:
    """A node on each host named, all in the mesh of the first."""
    nodes: list[Cabled] = []

    async def start(name: str, more: Sequence[str]) -> None:
        nodes.append(await stack.enter_async_context(node_on(network.hosts[name], root / name, more)))
        await nodes[-1].process.mesh_address()

    for name, more in arguments.items():
        await start(name, more)
        if len(nodes) > 1:
            await join(nodes[-1], nodes[0])
    return nodes


async def join(node: Cabled, issuer: Cabled, via: str = "") -> None:
    """Let a node into the issuer's mesh, through the member at `via` or the issuer itself."""
    await node.process.mesh_address()
    ticket = await issuer.process.invite()
    via = via or await issuer.process.mesh_address()
    await node.process.call("join", target=ticket, leave=False, via=via)


def complete(seen: Snapshot, others: int, holders: int) -> bool:
    """Whether a node is linked to this many others, and knows this many holders of its models."""
    near = sum(peer.state == "linked" for peer in seen.peers)
    return near == others and sum(len(model.nodes) for model in seen.models) == holders


async def until_each(nodes: Sequence[Cabled], holds: Callable[[Snapshot], bool]) -> float:
    """Seconds until the snapshot of every node `holds`, of all in one look."""
    since = trio.current_time()
    while True:
        if all([holds(await node.process.snapshot()) for node in nodes]):
            return trio.current_time() - since
        await trio.sleep(LOOK_EVERY_S)


@dataclass
class Outcome:
    """One request: `end` is finished, failed (one clear error, whose code `code` is), or lost.

    `longest_pause_s` without text counts from the asking on; `pieces` are those that had text.
    """

    asked_at_s: float
    end: str = "lost"
    code: str = ""
    text: str = ""
    pieces: int = 0
    took_s: float = 0.0
    longest_pause_s: float = 0.0
    errors: int = 0
    headers: httpx2.Headers | None = None


async def ask(
    node: Cabled,
    question: str,
    *,
    model: str,
    tokens: int,
    deadline_s: float,
    privacy: str = "private",
    heard: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Ask a node and read to the end, or to a little past the deadline; `heard` is told of every piece.

    Of class public they come as they are written, of others what a moment brings is one.
    """
    outcome = Outcome(asked_at_s=trio.current_time())
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "temperature": 0,
        "max_tokens": tokens,
        "mesh": {"deadline_ms": int(deadline_s * 1000), "cache": "off", "privacy": privacy},
    }
    with trio.move_on_after(deadline_s + GRACE_S):
        try:
            async with httpx2.AsyncClient(timeout=None, trust_env=False) as client:
                await _read(client, f"{node.url}/v1/chat/completions", body, outcome, heard)
        except httpx2.TransportError as error:
            outcome.code = type(error).__name__
    outcome.took_s = trio.current_time() - outcome.asked_at_s
    return outcome


async def _read(
    client: httpx2.AsyncClient,
    url: str,
    body: dict[str, object],
    outcome: Outcome,
    heard: Callable[[Outcome], None],
) -> None:
    async with client.stream("POST", url, json=body) as response:
        outcome.headers = response.headers
        if response.status_code != 200:
            _fail(outcome, msgspec.json.decode(await response.aread()))
            return
        last = outcome.asked_at_s
        async for line in response.aiter_lines():
            if _take(line, outcome):
                now = trio.current_time()
                outcome.longest_pause_s = max(outcome.longest_pause_s, now - last)
                last = now
                heard(outcome)


def _take(line: str, outcome: Outcome) -> bool:
    """Note one line of a stream; whether it carried text."""
    if line == "data: [DONE]":
        outcome.end = "lost" if outcome.errors else "finished"
    if not line.startswith("data: {"):
        return False
    event = msgspec.json.decode(line.removeprefix("data: "))
    if "error" in event:
        _fail(outcome, event)
        return False
    text = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    outcome.text += text
    outcome.pieces += bool(text)
    return bool(text)


def _fail(outcome: Outcome, event: dict[str, dict[str, str]]) -> None:
    outcome.errors += 1
    outcome.code = event["error"]["code"]
    outcome.end = "failed" if outcome.errors == 1 and outcome.code else "lost"


class Load:
    """A request of a few seconds every so often, at each of some nodes in turn; made inside a nursery."""

    def __init__(
        self, nodes: Sequence[Cabled], *, model: str, tokens: int, every_s: float, deadline_s: float
    ) -> None:
        self._nodes = nodes
        self._ask = partial(ask, model=model, tokens=tokens, deadline_s=deadline_s)
        self._every_s = every_s
        self.outcomes: list[Outcome] = []
        self.sent = 0
        self.ended = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send until `ended`, then wait for what is under way."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            for number in count():
                if self.ended:
                    break
                nursery.start_soon(self._one, self._nodes[number % len(self._nodes)], number)
                self.sent += 1
                await trio.sleep(self._every_s)

    async def _one(self, node: Cabled, number: int) -> None:
        self.outcomes.append(await self._ask(node, f"Request number {number}: say what you see."))

    def ends(self, end: str) -> list[Outcome]:
        """Those that ended so."""
        return [outcome for outcome in self.outcomes if outcome.end == end]
