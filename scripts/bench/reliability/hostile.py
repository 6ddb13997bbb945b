"""Hostile nodes: whether a fifth of them keeps the others from finding who provides a model.

The lookups are the DHT's alone: what a node knows from gossip answers none of them, only whom it can dial.
"""

from collections.abc import Callable, Sequence

import trio

from meshnode.mesh.ads import read_model_ad
from meshnode.mesh.providers import model_keys
from meshnode.node import Node
from meshnode.testing.hostile import Gang, Hostile
from meshnode.testing.misdeeds import (
    Equivocates,
    FloodsStores,
    HidesProviders,
    InventsNodes,
    NamesFarNodes,
    NeverAnswers,
    PostDates,
    Replays,
)
from meshnode.testing.simulation import Simulation
from meshwire.records import Record, RecordType
from reliability.common import Play, Test, book_of, names

SHARE = 5  # one in so many is hostile
PROVIDERS = 2
ASKERS_EVERY = 2
ANNOUNCED_S = 10.0
FAMILY = "scripted"


def kinds() -> list[Callable[[], Hostile]]:
    """All that a hostile node may do about providers; those that hide them know of each other."""
    gang = Gang()
    return [
        lambda: HidesProviders(gang),
        lambda: InventsNodes(FAMILY),
        NamesFarNodes,
        Replays,
        NeverAnswers,
        Equivocates,
        PostDates,
        lambda: FloodsStores(per_s=2),
    ]


def hiding(count: int, *, is_open: bool, only: int | None = None) -> Play:
    """How many in a hundred pairs of a node of good will and a provider it does not find by the DHT.

    `only` lets all hostile nodes do the same, one of `kinds`.
    """

    async def play(simulation: Simulation) -> Sequence[float]:
        nodes = await hostile_mesh(simulation, count, is_open=is_open, only=only)
        await trio.sleep(ANNOUNCED_S)
        providers = [node for node in nodes if node.config.engine == "scripted"]
        askers = [node for node in nodes if node.config.engine == "none"]
        missed: list[bool] = []
        async with trio.open_nursery() as nursery:
            for asker in askers[::ASKERS_EVERY]:
                for provider in providers:
                    nursery.start_soon(note_miss, asker, provider, missed)
        return [100 * sum(missed) / len(missed)]

    return play


async def hostile_mesh(
    simulation: Simulation, count: int, *, is_open: bool, only: int | None = None
) -> list[Node]:
    """A mesh of so many, of whom a fifth is hostile; those of good will, the providers of the model among them."""
    misdeeds = kinds()
    first: Node | None = None
    good: list[Node] = []
    for number, name in enumerate(names(count)):
        hostile = None
        if number % SHARE == SHARE - 1:
            hostile = misdeeds[only if only is not None else number // SHARE % len(misdeeds)]()
        engine = "scripted" if hostile is None and 0 < number <= PROVIDERS else "none"
        node = await simulation.start(
            name, engine=engine, hostile=hostile, open_mesh=is_open and first is None
        )
        if first is not None:
            await node.join(f"mem://{first.config.name}" if is_open else await first.invite())
        first = first or node
        good += [node] if hostile is None else []
    return good


async def note_miss(asker: Node, provider: Node, missed: list[bool]) -> None:
    """Note whether a lookup comes back without the provider's word."""
    missed.append(await found_of(asker, provider) is None)


async def found_of(asker: Node, provider: Node) -> bytes | None:
    """The record of a provider as the asker's lookup brings it: out of the answers of others alone."""
    assert asker.presence is not None
    record = model_of(provider)
    key = model_keys(asker.presence.mesh.id, read_model_ad(record))[0]
    found = await asker.presence.dht.lookup(key, providers=True)
    return found.providers.get((record.owner, record.name))


def model_of(provider: Node) -> Record:
    """The ad of a provider's model."""
    return next(one for one in book_of(provider).of(provider.identity.node) if one.type is RecordType.MODEL)


TESTS = (
    Test("of 32 nodes, 20% hostile, the DHT misses", 10, hiding(32, is_open=False), 5.0, unit="%", long=True),
    Test(
        "of 32 in an open mesh, 20% hostile, it misses",
        10,
        hiding(32, is_open=True),
        5.0,
        unit="%",
        long=True,
    ),
)
