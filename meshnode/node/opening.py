"""Opening a node: its settings, its home, its keys and its store, and then its life around the caller's."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from meshnode import config as settings
from meshnode.config import Config
from meshnode.errors import ConfigInvalid, sole_cause
from meshnode.identity import load_or_create
from meshnode.net.base import Network
from meshnode.net.websocket import WebsocketNetwork
from meshnode.node.attesting import Attestation
from meshnode.node.home import locked_home
from meshnode.node.node import Node, PresenceOn
from meshnode.node.presence import Presence
from meshnode.seams import Seams
from meshnode.state.store import open_store


@asynccontextmanager
async def open_node(
    config: Config | None = None,
    *,
    seams: Seams | None = None,
    network: Network | None = None,
    listen: str = "",
    env: Mapping[str, str] | None = None,
    presence_on: PresenceOn = Presence,
    attestation: Attestation | None = None,
    **flags: Any,
) -> AsyncIterator[Node]:
    """A whole node for as long as the context lasts.

    `flags` are the fields of Config (`home`, `model`, `mesh_port`, `engine`, …) when no `config` is given;
    what is not given comes from `env` (the process's own by default), `home/config.toml` and the defaults.
    `seams`, `network` and `listen` swap the world, and `presence_on` how it behaves on a mesh: the simulator
    uses them. `attestation` is how this program shows and judges hardware, see `meshnode.node.attesting`. Raises
    ConfigInvalid, HomeUnusable, HomeInUse or PortInUse.
    """
    if config is not None and flags:
        raise ConfigInvalid(f"Either a config or its fields can be given, not both ({min(flags)}).")
    home = flags.pop("home", None)
    settled = config or settings.load(
        None if home is None else Path(home), flags, os.environ if env is None else env
    )
    settled = settings.with_name(settled)
    world = seams or Seams()
    with locked_home(settled.home):
        with trio.CancelScope(shield=True):  # a thread left behind would work on in a home that is free again
            identity = await world.blocking(lambda: load_or_create(settled.home, world.entropy))
            store = await open_store(settled.home, world.blocking, durable=world.durable)
        try:
            made = Node(
                settled, identity, store, world, network or WebsocketNetwork(), presence_on, attestation
            )
            async with _living(made, listen) as node:
                yield node
        finally:
            with trio.CancelScope(shield=True):
                await store.aclose()


@asynccontextmanager
async def _living(node: Node, listen: str) -> AsyncIterator[Node]:
    """The node, alive for as long as the context; an error comes out as it is, not in a group."""
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            config = node.config
            await nursery.start(
                node.live, listen or f"ws://{_bracketed(config.mesh_host)}:{config.mesh_port}"
            )
            try:
                yield node
            except Exception as error:  # noqa: BLE001 - the caller's own; raised below, outside the nursery
                failure = error
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        raise sole_cause(group) from None
    if failure is not None:
        raise failure


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
