"""Three faults of real networks, played on real processes: a mesh cut in halves, a relay killed, a cable pulled.

Each play builds its own network below a directory, and gives figures; what they must be is for others to say.
"""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from meshnode.observe.snapshot import Snapshot
from meshnode.testing.cabled import Cabled, Load, Outcome, ask, complete, join, node_on, raised, until_each
from meshnode.testing.namespaces import Network, network

MODEL = "smollm2:135m"
QUESTION = "Tell me a long story about a lighthouse keeper and the sea, with many details."
READY_WITHIN_S = 90.0
AGREE_WITHIN_S = 60.0
DEADLINE_S = 20.0
EVERY_S = 0.25
PORT = 8421
STRUCK_AFTER_PIECES = 8
SCRIPTED = ("--engine", "scripted")
WITHOUT = ("--engine", "none")
LLAMA = ("--engine", "llama", "--threads", "1")


@dataclass(frozen=True)
class Halves:
    """A cut mesh under load. `apart` says that neither half saw the other when the cut ended."""

    load: Load
    apart: bool
    agreed_s: float


async def halves(root: Path, *, count: int, parted_s: float, around_s: float = 2.0) -> Halves:
    """Cut `count` nodes in half, under a load that begins `around_s` before and ends as long after they agree."""
    names = [f"node{index}" for index in range(count)]
    engines = {name: SCRIPTED if index % 2 else WITHOUT for index, name in enumerate(names)}

    def whole(seen: Snapshot) -> bool:
        return complete(seen, count - 1, count // 2)

    with network(names) as cables:
        async with _readying() as (stack, ready):
            nodes = await raised(stack, cables, root, engines)
            await until_each(nodes, whole)
            ready()
            load = Load(nodes, model=MODEL, tokens=30, every_s=EVERY_S, deadline_s=DEADLINE_S)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.run)
                await trio.sleep(around_s)
                cables.part(names[: count // 2], "lan")
                await trio.sleep(parted_s)
                apart = [_links(await node.process.snapshot()) < count // 2 for node in nodes]
                cables.heal()
                with trio.fail_after(AGREE_WITHIN_S):
                    agreed_s = await until_each(nodes, whole)
                await trio.sleep(around_s)
                load.ended = True
    return Halves(load, all(apart), agreed_s)


@asynccontextmanager
async def _readying() -> AsyncIterator[tuple[AsyncExitStack, Callable[[], None]]]:
    """A stack for nodes, and what to call once all are ready, which has to be within READY_WITHIN_S."""
    with trio.fail_after(READY_WITHIN_S) as scope:
        async with AsyncExitStack() as stack:
            yield stack, partial(setattr, scope, "deadline", math.inf)


def _links(seen: Snapshot) -> int:
    return sum(peer.state == "linked" for peer in seen.peers)


@dataclass(frozen=True)
class Struck:
    """One greedy answer undisturbed, and the same with a fault in its middle.

    `said` is what the second had said when the fault came; `way` names who was on its way until then, `way_after` who
    was on that of a third.
    """

    before: Outcome
    after: Outcome
    said: str
    way: str
    way_after: str


async def relay_killed(root: Path, *, tokens: int, server: Sequence[str] = LLAMA) -> Struck:
    """SIGKILL the relay of a stream from a node that can only dial out, to relays on its own switch."""
    with network(["asker", "relay1", "relay2", "server"], ["outside", "inside"]) as cables:
        for name in ("asker", "relay1", "relay2"):
            cables.plug(name, "outside")
        for name in ("relay1", "relay2", "server"):
            cables.plug(name, "inside")
        async with _readying() as (stack, ready):
            asker, relays = await _behind_relays(stack, cables, root, server)
            ready()

            def strike(outcome: Outcome) -> None:
                relays[_relay_of(outcome)].process.kill()

            return await _struck(asker, tokens, strike, _relay_of)


async def _behind_relays(
    stack: AsyncExitStack, cables: Network, root: Path, server: Sequence[str]
) -> tuple[Cabled, dict[str, Cabled]]:
    """The asker and the relays, once the server has links to both relays and the asker knows its model."""
    everywhere, port = "0.0.0.0", ("--mesh-port", str(PORT))  # noqa: S104 - a relay is on both switches

    async def start(name: str, options: Sequence[str], listen: str = "") -> Cabled:
        host = cables.hosts[name]
        return await stack.enter_async_context(node_on(host, root / name, (*options, *port), listen=listen))

    asker = await start("asker", WITHOUT)
    relays = {name: await start(name, WITHOUT, everywhere) for name in ("relay1", "relay2")}
    for relay in relays.values():
        await join(relay, asker)
    hidden = await start("server", (*server, "--no-reachable"))
    await join(hidden, asker, via=f"ws://{cables.hosts['relay1'].addresses['inside']}:{PORT}")
    await hidden.process.until(lambda seen: _links(seen) == len(relays))
    await asker.process.until(lambda seen: any(model.nodes for model in seen.models))
    return asker, relays


def _relay_of(outcome: Outcome) -> str:
    """The first relay on the way: there may be two."""
    return _named(outcome, "x-mesh-path", ("relay1", "relay2"))


def _server_of(outcome: Outcome) -> str:
    return _named(outcome, "x-mesh-served-by", ("server1", "server2"))


def _named(outcome: Outcome, header: str, names: Sequence[str]) -> str:
    """The first of these that a header of the answer names; headers say where it began."""
    told = outcome.headers.get(header, "") if outcome.headers else ""
    return min((name for name in names if f"{name}#" in told), key=lambda name: told.index(f"{name}#"))


async def unplugged(root: Path, *, tokens: int, server: Sequence[str] = LLAMA) -> Struck:
    """Pull the cable of the node that serves, with another of the same model on the same switch."""
    names = ["asker", "server1", "server2"]
    with network(names) as cables:
        async with _readying() as (stack, ready):
            engines = {"asker": WITHOUT, "server1": server, "server2": server}
            asker, *_ = await raised(stack, cables, root, engines)
            await asker.process.until(lambda seen: complete(seen, 2, 2))
            ready()
            return await _struck(asker, tokens, lambda outcome: cables.pull(_server_of(outcome)), _server_of)


async def _struck(
    asker: Cabled, tokens: int, strike: Callable[[Outcome], None], way: Callable[[Outcome], str]
) -> Struck:
    """Ask three times, and strike when some of the second answer has come."""
    said = ""

    def heard(outcome: Outcome) -> None:
        nonlocal said
        if outcome.pieces == STRUCK_AFTER_PIECES:
            said = outcome.text
            strike(outcome)

    async def once(heard: Callable[[Outcome], None]) -> Outcome:
        return await ask(
            asker,
            QUESTION,
            model=MODEL,
            tokens=tokens,
            deadline_s=DEADLINE_S * 2,
            privacy="public",
            heard=heard,
        )

    before = await once(lambda outcome: None)
    after = await once(heard)
    later = await once(lambda outcome: None)
    return Struck(before, after, said, way(after), way(later))
