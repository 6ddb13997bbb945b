"""A node that tells what passes inside it, for tests: it embeds a node and takes the options of `meshnode up`.

It has no API. Its control socket knows three more verbs: `ask` gives the pieces that this node's own walk
received, `emitted` those that its engine's worker gave, `relayed` every frame it carried for others.
"""

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import trio

from meshnode import config as settings
from meshnode import open_node
from meshnode.api import control_socket
from meshnode.cli.options import node_options
from meshnode.engine.base import Engine
from meshnode.node.node import Node
from meshnode.node.run import verbs_of
from meshnode.seams import Seams
from meshnode.terms import Emitted, Piece


class Taps:
    """What was seen so far."""

    def __init__(self) -> None:
        self.emitted: list[Piece] = []
        self.relayed: list[bytes] = []

    def tap(self, engine: Engine) -> None:
        """Note what a run of the engine gives, before anything else of the node sees it."""
        run = engine.run

        @asynccontextmanager
        async def observed(job, scope):
            async with run(job, scope) as pieces:
                yield self._noting(pieces)

        engine.run = observed

    async def _noting(self, pieces):
        async for emitted in pieces:
            if isinstance(emitted, Piece):
                self.emitted.append(emitted)
            yield emitted


def tapped_verbs(node: Node, taps: Taps) -> dict[str, Any]:
    async def ask(given, _emit) -> list[Emitted]:
        async with node.ask(given["prompt"], **given["wishes"]) as running:
            return [emitted async for emitted in running.pieces]

    async def emitted(_given, _emit) -> list[Piece]:
        return taps.emitted

    async def relayed(_given, _emit) -> list[bytes]:
        return taps.relayed

    return {**verbs_of(node), "ask": ask, "emitted": emitted, "relayed": relayed}


async def observe(home: Path, flags: dict[str, Any], seal: bool) -> None:
    taps = Taps()
    seams = Seams(relay_tap=taps.relayed.append, seal_circuits=seal)
    async with (
        open_node(settings.load(home, flags, os.environ), seams=seams) as node,
        trio.open_nursery() as nursery,
    ):
        for engine in node.engines.all:
            taps.tap(engine)
        await nursery.start(control_socket.serve, home, tapped_verbs(node, taps))
        addresses = (await node.present()).addresses
        print(msgspec.json.encode({"event": "mesh", "addresses": addresses}).decode(), flush=True)


@click.command()
@click.option("--home", type=click.Path(path_type=Path), required=True)
@click.option("--seal/--no-seal", default=True)
@node_options
def main(home: Path, seal: bool, **flags: Any) -> None:
    trio.run(observe, home, flags, seal)


if __name__ == "__main__":
    main()
