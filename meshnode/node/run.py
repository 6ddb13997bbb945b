"""A node with its doors, as `meshnode up` runs it: API first, then the mesh, then the model, each told of.

It turns what happens into events for whoever watches, and ends everything in order.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from meshnode.api import app, control_socket, server
from meshnode.api.traffic import Traffic
from meshnode.config import Config
from meshnode.control.invite import EXPIRES_DEFAULT_S
from meshnode.control.logs import logs_verbs
from meshnode.control.models import remove_verb
from meshnode.control.ping import ping_verb
from meshnode.control.pull import progress_event, pull_verb
from meshnode.control.route import route_verb
from meshnode.control.sharing import PauseArguments, pause_verb, resume_verb
from meshnode.control.status import status_verb
from meshnode.control.verbs import (
    Arguments,
    Emit,
    InviteArguments,
    JoinArguments,
    PullArguments,
    Verb,
    read_arguments,
)
from meshnode.engine.base import EngineState
from meshnode.errors import ConfigInvalid, EngineFailed
from meshnode.models.pull import OnProgress, PullProgress
from meshnode.models.store import Removed, StoredModel
from meshnode.node.node import Node
from meshnode.node.opening import open_node
from meshnode.observe.recent import Recent
from meshnode.observe.snapshot import EngineView, ModelView, SharingView, Snapshot
from meshnode.observe.tail import TAIL
from meshnode.routing.decision import DecisionView
from meshnode.serve.readiness import Readiness
from meshnode.terms import Job, Wish
from meshnode.urls import is_loopback

OnEvent = Callable[[dict[str, Any]], None]


class NodeDoors:
    """The node as the API sees it; it is there before the node is."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.ask: Callable[[Job], Any] = node.run
        self.snapshot: Callable[[], Snapshot] = node.snapshot
        self.readiness: Callable[[Wish], Readiness] = node.readiness
        self.metrics: Callable[[], bytes] = node.metrics.exposition
        self.explain: Callable[[Job], DecisionView] = node.explain
        self.new_id: Callable[[], str] = node.new_id
        self.tenant_tag: Callable[[str], bytes] = node.scopes.tag
        self.wall: Callable[[], float] = node.seams.wall
        self.recent: Recent = node.recent

    def models(self) -> tuple[ModelView, ...]:
        """The models that a request can name now."""
        return self._node.models()

    async def invite(self, expires_s: int) -> str:
        """A one-use ticket for the next device."""
        return await self._node.invite(expires_s=expires_s)


async def run_node(
    config: Config, *, join: str = "", via: str = "", on_event: OnEvent, stop: trio.Event | None = None
) -> None:
    """Run a node with its doors until `stop` is set or it is cancelled; `join` is a ticket or an open mesh's address.

    A stop lets answers under way come to their end first, within `api_drain_s`; a cancellation breaks them off.
    Events are `{"event": …}`: api, mesh, ticket, joined, progress, loading, ready and error. Raises
    ConfigInvalid, HomeUnusable, HomeInUse, PortInUse, or why the mesh could not be joined.
    """
    traffic = Traffic(config.api_requests)
    async with open_node(config) as node, _api(node, traffic) as url, trio.open_nursery() as nursery:
        nursery.start_soon(
            _end_when, trio.Event() if stop is None else stop, traffic, config, nursery.cancel_scope
        )
        on_event({"event": "api", "url": url})
        await nursery.start(partial(control_socket.serve, config.home, verbs_of(node)))
        _tell_of_engines(node, on_event)
        presence = await node.present()
        on_event({"event": "mesh", "addresses": presence.addresses})
        if join:
            await _join(node, join, via, on_event)
        elif node.may_invite:
            ticket = await node.invite(expires_s=EXPIRES_DEFAULT_S)
            on_event({"event": "ticket", "ticket": ticket})
        await trio.sleep_forever()


async def _end_when(stop: trio.Event, traffic: Traffic, config: Config, everything: trio.CancelScope) -> None:
    """Once it is to stop: no new requests, then none under way or no time left, then the end of all."""
    await stop.wait()
    await traffic.drain(config.api_drain_s)
    everything.cancel()


@asynccontextmanager
async def _api(node: Node, traffic: Traffic) -> AsyncIterator[str]:
    """The API for as long as the context; at its end, streams get an error frame and a moment to take it.

    Raises ConfigInvalid where others could reach it and nobody has a key.
    """
    await node.keys.load()
    rules = _rules(node)
    shutdown = trio.Event()
    serve = partial(
        server.serve,
        app.build(NodeDoors(node), rules, traffic),
        host=node.config.api_host,
        port=node.config.api_port,
        shutdown=shutdown,
        traffic=traffic,
    )
    async with trio.open_nursery() as nursery:
        try:
            node.api_url = await nursery.start(_shielded, serve)
            yield node.api_url
        finally:
            shutdown.set()


def _rules(node: Node) -> app.Rules:
    config = node.config
    public = not is_loopback(config.api_host)
    if public and not node.keys.any_good:
        raise ConfigInvalid(
            f"api_host {config.api_host} is not a loopback address, and there is no API key: anybody could ask.",
            hint="Make one first with `meshnode keys create NAME`, or listen on 127.0.0.1.",
            param="api_host",
        )
    return app.Rules(
        hosts=(*config.api_names, config.api_host) if public else config.api_names,
        origins=config.api_origins,
        public=public,
        keys=node.keys,
        require_key=config.api_require_key,
        request_s=config.api_request_s,
    )


async def _shielded(
    serve: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve on through a cancellation: only the shutdown event ends it, and it sees that within a moment."""
    with trio.CancelScope(shield=True):
        await serve(task_status=task_status)


def verbs_of(node: Node) -> dict[str, Verb]:
    """What the control socket can be asked."""
    return {
        "status": status_verb(node.snapshot),
        "invite": partial(_invite, node),
        "join": partial(_join_verb, node),
        "pull": pull_verb(partial(_pull, node)),
        "route": route_verb(node.explain),
        "ping": ping_verb(node.ping),
        "rm": remove_verb(partial(_remove, node)),
        "pause": pause_verb(partial(_pause, node)),
        "resume": resume_verb(node.sharing.resume),
        **node.trust.verbs(),
        **node.keys.verbs(),
        **logs_verbs(TAIL),
    }


async def _invite(node: Node, given: Arguments, _emit: Emit) -> dict[str, str]:
    arguments = read_arguments(InviteArguments, given)
    return {"ticket": await node.invite(expires_s=arguments.expires_s)}


async def _join_verb(node: Node, given: Arguments, _emit: Emit) -> dict[str, str]:
    arguments = read_arguments(JoinArguments, given)
    await node.join(arguments.target, leave=arguments.leave, via=arguments.via)
    return {"mesh": node.snapshot().mesh.name}


async def _pull(node: Node, arguments: PullArguments, on_progress: OnProgress) -> StoredModel:
    return await node.pull(
        arguments.source,
        name=arguments.name,
        sha256=arguments.sha256,
        manifest=arguments.manifest,
        on_progress=on_progress,
    )


async def _remove(node: Node, name: str, force: bool) -> Removed:
    return await node.remove(name, force=force)


def _pause(node: Node, arguments: PauseArguments) -> SharingView:
    return node.sharing.pause(everything=arguments.everything, for_s=arguments.for_s or math.inf)


async def _join(node: Node, target: str, via: str, on_event: OnEvent) -> None:
    await node.join(target, via=via)
    on_event({"event": "joined", "mesh": node.snapshot().mesh.name})


def _tell_of_engines(node: Node, on_event: OnEvent) -> None:
    """Events for the model: fetching with its progress, then each step of its life once."""

    def fetched(progress: PullProgress) -> None:
        on_event(progress_event(progress))

    last: dict[str, dict[str, Any]] = {}

    def tell() -> None:
        for view in node.snapshot().engines or (EngineView(),):
            event = _engine_event(view)
            if last.get(view.model) != event:
                last[view.model] = event
                on_event(event)

    node.on_progress = fetched
    node.bench.watch(tell)
    tell()


def _engine_event(view: EngineView) -> dict[str, Any]:
    match view.state:
        case EngineState.LOADING:
            step = view.detail.partition(":")[0]  # without how far it is
            return {"event": "loading", "model": view.model, "detail": step}
        case EngineState.FAILED:
            return {"event": "error", "code": EngineFailed.code, "message": view.detail, "hint": ""}
        case EngineState.READY:
            return {
                "event": "ready",
                "model": view.model,
                "sandbox": view.sandbox,
                "exposure": view.exposure,
            }
        case _:
            return {"event": "ready", "model": ""}
