"""A mesh of real node processes on this machine, in a line: A without a model, relays, and a model at the end.

`python -m meshnode.testing.local_mesh --mesh 3 --ask "…"`: the nodes join by tickets, each knows only its
neighbours, the question is asked at A's API, and the answer says which way it came.
"""

import math
import os
import shutil
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import click
import httpx2
import msgspec
import trio
from rich.console import Console

from meshnode.cli.exits import exit_code
from meshnode.errors import MeshError, from_code, sole_cause
from meshnode.testing.processes import NodeProcess, node_process

MODEL = "smollm2:135m"
READY_WITHIN_S = 120.0
ANSWER_WITHIN_S = 120.0
NODES_MAX = 4  # a route has at most three links
NAMES = "ABCD"
LINE = {**os.environ, "MESHNODE_DISCOVER": "false"}  # each node keeps to the neighbour it joined through


async def raise_line(
    stack: AsyncExitStack, root: Path, count: int, last: tuple[str, ...] = (), say: Console | None = None
) -> list[NodeProcess]:
    """Start `count` nodes in a line, first to last; only the last has an engine, set up by the options `last`."""
    line: list[NodeProcess] = []
    for index in range(count):
        options = ("--name", NAMES[index], *(last if index == count - 1 else ("--engine", "none")))
        if say:
            say.print(f"starting node {NAMES[index]}" + (" with the model" if index == count - 1 else ""))
        node = await stack.enter_async_context(node_process(root / NAMES[index], options, env=LINE))
        await node.mesh_address()
        if line:
            via = await line[-1].mesh_address()
            await node.call("join", target=await line[0].invite(), leave=False, via=via)
        line.append(node)
    return line


async def ask(url: str, question: str, out: Console, model: str = MODEL) -> httpx2.Headers:
    """Ask at an API, print the answer as it comes, and give the headers that say how it came."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": question}]}
    async with (
        httpx2.AsyncClient(timeout=ANSWER_WITHIN_S) as client,
        client.stream("POST", f"{url}/v1/chat/completions", json=body) as response,
    ):
        if response.status_code != 200:
            raise _error_in(msgspec.json.decode(await response.aread()))
        async for line in response.aiter_lines():
            _print_delta(line, out)
        out.print()
        return response.headers


def _print_delta(line: str, out: Console) -> None:
    if not line.startswith("data: {"):
        return
    event = msgspec.json.decode(line.removeprefix("data: "))
    if "error" in event:
        raise _error_in(event)
    for choice in event["choices"]:
        out.print(choice["delta"].get("content") or "", end="", markup=False, highlight=False)


def _error_in(body: dict[str, dict[str, str]]) -> MeshError:
    return from_code(body["error"]["code"], body["error"]["message"])


async def run(count: int, question: str, options: tuple[str, ...], out: Console) -> None:
    """Raise the mesh; ask and end, or stay up until Ctrl-C when there is no question."""
    root = Path(tempfile.mkdtemp(prefix="meshnode-"))
    with trio.CancelScope(deadline=trio.current_time() + READY_WITHIN_S) as starting:
        async with AsyncExitStack() as stack:
            line = await raise_line(stack, root, count, options, out)
            await line[-1].event("ready")
            await line[0].until(lambda seen: any(model.nodes for model in seen.models))
            starting.deadline = math.inf
            url = await line[0].api_url()
            if question:
                await _ask_and_tell(url, question, out)
            else:
                _tell_where(line, url, out)
                await _until_signal()
                out.print("stopping")
    if starting.cancelled_caught:
        raise MeshError(
            f"The mesh was not ready within {READY_WITHIN_S:g} s.", hint=f"The nodes' logs are below {root}."
        )
    shutil.rmtree(root, ignore_errors=True)


async def _ask_and_tell(url: str, question: str, out: Console) -> None:
    out.print(f"asking A ({url}), which has no model: {question}\n", markup=False)
    headers = await ask(url, question, out)
    out.print(f"\npath       {headers['x-mesh-path']}", markup=False)
    out.print(f"served by  {headers['x-mesh-served-by']} ({headers['x-mesh-model']})", markup=False)


def _tell_where(line: list[NodeProcess], url: str, out: Console) -> None:
    out.print(f"\nThe mesh is up. A has no model; ask it at OPENAI_BASE_URL={url}/v1")
    for node in line:
        out.print(f"  {node.home.name}: meshnode status --home {node.home}", markup=False)
    out.print("Ctrl-C stops it.")


async def _until_signal() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--mesh", "count", type=click.IntRange(2, NODES_MAX), default=3, help="How many nodes.")
@click.option("--ask", "question", default="", help="Ask this at the first node, then end.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(count: int, question: str, options: tuple[str, ...]) -> None:
    """Run a whole mesh on this machine, its nodes in a line; OPTIONS go to the node that has the model."""
    out = Console(highlight=False, soft_wrap=True)
    try:
        trio.run(partial(run, count, question, options, out))
    except* MeshError as group:
        error = sole_cause(group)
        assert isinstance(error, MeshError)
        out.print(f"error: {error}", markup=False)
        sys.exit(exit_code(error))
    except* KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
