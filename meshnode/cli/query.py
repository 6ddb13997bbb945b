"""The short verbs, which ask a running node one thing: invite, status, peers, models, pull, version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from meshnode import __version__
from meshnode.cli import client
from meshnode.cli.render import Screen, duration, milliseconds
from meshnode.cli.verb import verb
from meshnode.control.invite import duration_s
from meshnode.control.pull import PullResult, pull_with
from meshnode.control.verbs import InviteArguments, PullArguments, read_arguments
from meshnode.errors import NotRunning
from meshnode.models.pull import pull as fetch
from meshnode.models.store import ModelStore
from meshnode.observe.snapshot import ModelView, PeerView, Snapshot
from meshnode.seams import in_thread

MODELS_DIRECTORY = "models"
ID_CHARACTERS = 8  # enough to tell nodes apart by eye


class Invitation(msgspec.Struct, frozen=True):
    """What `invite` answers."""

    ticket: str


@click.command()
@click.option("--expires", default="1d", show_default=True, help="How long it is good for: 30m, 12h, 7d.")
@verb
async def invite(screen: Screen, home: Path, expires: str) -> None:
    """Make a ticket with which one more device can join."""
    arguments = InviteArguments(duration_s(expires))
    made = await client.call(home, "invite", msgspec.structs.asdict(arguments), Invitation)
    screen.json(made)
    screen.line(f"meshnode join {made.ticket}")


@click.command()
@verb
async def status(screen: Screen, home: Path) -> None:
    """Show what this node is doing."""
    seen = await client.status(home)
    screen.json(seen)
    screen.facts(_status_facts(seen))


@click.command()
@verb
async def peers(screen: Screen, home: Path) -> None:
    """List the other nodes of the mesh, as this one knows them."""
    seen = await client.status(home)
    screen.json({"peers": seen.peers})
    if not seen.peers:
        screen.line("No other nodes yet. `meshnode invite` makes a ticket for the next device.")
        return
    columns = ("NODE", "NAME", "STATE", "TRUST", "RTT", "RUNNING", "MODELS")
    screen.table(columns, [_peer_row(peer) for peer in seen.peers])


@click.command()
@verb
async def models(screen: Screen, home: Path) -> None:
    """List the models that this node can use, its own and its peers'."""
    seen = await client.status(home)
    screen.json({"models": seen.models})
    if not seen.models:
        screen.line("No models yet. `meshnode pull smollm2:135m` fetches a small one.")
        return
    columns = ("MODEL", "QUANT", "TIER", "CONTEXT", "SPEED", "HERE", "NODES")
    screen.table(columns, [_model_row(model) for model in seen.models])


@click.command()
@click.argument("source")
@click.option("--sha256", default="", help="What the file must be; otherwise it is refused.")
@verb
async def pull(screen: Screen, home: Path, source: str, sha256: str) -> None:
    """Bring a model to this device.

    SOURCE is a name such as smollm2:135m, or the path of a GGUF file. No node needs to run for it.
    """
    given = {"source": _resolved(source), "sha256": sha256}
    arguments = read_arguments(PullArguments, given)
    try:
        pulled = await client.call(home, "pull", given, PullResult, screen.progress)
    except NotRunning:
        pulled = await _pull_here(screen, home, arguments)
    screen.json(pulled)
    screen.line(f"{pulled.name} is here: {pulled.size_bytes / 1e6:.0f} MB, sha256 {pulled.digest}")


@click.command()
@verb
async def version(screen: Screen, home: Path) -> None:
    """Print the version."""
    screen.json({"version": __version__, "home": str(home)})
    screen.line(f"meshnode {__version__}")


async def _pull_here(screen: Screen, home: Path, arguments: PullArguments) -> PullResult:
    store = ModelStore(home / MODELS_DIRECTORY)

    async def work(given: PullArguments, report: Any) -> Any:
        return await fetch(given.source, store, blocking=in_thread, on_progress=report, sha256=given.sha256)

    async def emit(event: dict[str, object]) -> None:
        screen.progress(event)

    return await pull_with(work, arguments, emit)


def _resolved(source: str) -> str:
    """A path made absolute, for the node's working directory is another; names stay as they are."""
    path = Path(source).expanduser()
    return str(path.absolute()) if source.endswith(".gguf") or path.is_file() else source


def _status_facts(seen: Snapshot) -> dict[str, str]:
    mesh = seen.mesh
    engine = seen.engine
    return {
        "node": f"{seen.name} ({seen.node[:ID_CHARACTERS]})",
        "state": seen.state,
        "up for": duration(seen.uptime_s),
        "API": seen.api_url,
        "OPENAI_BASE_URL": f"{seen.api_url}/v1" if seen.api_url else "",
        "mesh": f"{mesh.name or mesh.id[:ID_CHARACTERS]} ({'open' if mesh.open else 'closed'}, {mesh.role})"
        if mesh.id
        else "none",
        "joining": " ".join(filter(None, (seen.join_state, seen.join_detail))),
        "addresses": ", ".join(seen.mesh_addresses),
        "model": f"{engine.model} ({engine.kind}, {engine.state})" if engine.model else "",
        "engine": engine.detail,
        "running": f"{engine.in_flight} of {engine.slots}, {engine.queued} waiting" if engine.slots else "",
        "links": str(len(seen.links)),
        "peers": str(len(seen.peers)),
    }


def _peer_row(peer: PeerView) -> tuple[str, ...]:
    return (
        peer.node[:ID_CHARACTERS],
        peer.name,
        peer.state,
        peer.trust,
        milliseconds(peer.rtt_ms),
        str(peer.in_flight),
        ", ".join(peer.models),
    )


def _model_row(model: ModelView) -> tuple[str, ...]:
    return (
        model.name,
        model.quant,
        str(model.tier),
        str(model.context),
        f"{model.generate_tps:.0f} tok/s" if model.generate_tps else "",
        "yes" if model.local else "no",
        ", ".join(node[:ID_CHARACTERS] for node in model.nodes),
    )
