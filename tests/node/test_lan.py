"""A device whose mesh has moved finds it again on the local network: real sockets, real multicast, loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from meshnode import Node, open_node
from meshnode.config import Config
from meshnode.node.seeking import LAN_WISHED, Seeker
from meshnode.seams import Seams
from meshwire.ids import NodeId

FOUND_WITHIN_S = 20.0
NOT_FOUND_S = 4.0  # longer than it takes with it


@asynccontextmanager
async def a_node(home: Path, *, lan: bool) -> AsyncIterator[Node]:
    """At any free port, so that it is somewhere else each time."""
    ports = {"mesh_port": 0, "api_port": 0}
    async with open_node(home=home, engine="none", mesh_host="127.0.0.1", lan=lan, **ports) as node:
        yield node


async def linked(node: Node) -> None:
    while not node.snapshot().links:
        await trio.sleep(0.05)


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize("lan", [True, False])
async def test_who_is_at_another_address_than_it_was_is_found_near(tmp_path: Path, lan: bool) -> None:
    async with (
        a_node(tmp_path / "first", lan=False) as first,
        a_node(tmp_path / "second", lan=False) as second,
    ):
        await second.join(await first.invite())
    async with a_node(tmp_path / "second", lan=lan) as second, a_node(tmp_path / "first", lan=lan):
        with trio.move_on_after(FOUND_WITHIN_S if lan else NOT_FOUND_S):
            await linked(second)
        assert bool(second.snapshot().links) == lan


class Crowd:
    """As much of a book, of peers and of a switch as wishes need: no records, and whom the switch is to dial."""

    owners = 1

    own = NodeId(bytes(20))

    def __init__(self) -> None:
        self.wanted: set[NodeId] = set()

    def all(self, _kind: object) -> list[object]:
        return []

    def addresses(self, _node: NodeId) -> tuple[str, ...]:
        return ()

    def want(self, _addresses: tuple[str, ...], node: NodeId) -> None:
        self.wanted.add(node)

    def unwant(self, node: NodeId) -> None:
        self.wanted.discard(node)


async def test_a_crowd_nearby_that_no_record_knows_takes_few_of_the_wishes(tmp_path: Path) -> None:
    crowd = Crowd()
    seeker: Any = Seeker(Config(home=tmp_path), crowd, Seams(), crowd, crowd, crowd, bytes(16))  # type: ignore[arg-type]
    near = seeker._lan.neighbours
    near.update({NodeId(number.to_bytes(20)): "ws://192.0.2.7:1" for number in range(1, 20)})
    wished: dict[NodeId, tuple[str, ...]] = {}
    for _ in range(5):
        seeker._wish(wished)
    assert len(crowd.wanted) == len(wished) == LAN_WISHED
    near.clear()
    seeker._wish(wished)
    assert not crowd.wanted
