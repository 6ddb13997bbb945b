"""The short verbs, which ask a running node one thing: invite, status, peers, version."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from meshnode import __version__
from meshnode.cli import client
from meshnode.cli.qr import draw
from meshnode.cli.render import Screen, duration, milliseconds
from meshnode.cli.sharing import sharing_line
from meshnode.cli.spelling import joining
from meshnode.cli.verb import verb
from meshnode.control.invite import duration_s
from meshnode.control.verbs import InviteArguments
from meshnode.observe.snapshot import CloudView, EngineView, MeshView, PeerView, Snapshot

ID_CHARACTERS = 8  # enough to tell nodes apart by eye


class Invitation(msgspec.Struct, frozen=True):
    """What `invite` answers."""

    ticket: str


class Peers(msgspec.Struct, frozen=True):
    """What `peers` prints."""

    peers: tuple[PeerView, ...]


class Version(msgspec.Struct, frozen=True):
    """What `version` prints: its version, and the home that it would use."""

    version: str
    home: str


@click.command()
@click.option("--expires", default="1d", show_default=True, help="How long it is good for: 30m, 12h, 7d.")
@click.option("--qr", is_flag=True, help="Draw the ticket as a QR code, too.")
@verb
async def invite(screen: Screen, home: Path, *, expires: str, qr: bool) -> None:
    """Make a ticket with which one more device can join."""
    arguments = InviteArguments(duration_s(expires))
    made = await client.call(home, "invite", msgspec.structs.asdict(arguments), Invitation)
    screen.json(made)
    if qr:
        _draw(screen, made.ticket)
    screen.line(joining(made.ticket))


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
    screen.json(Peers(seen.peers))
    if not seen.peers:
        screen.line("No other nodes yet. `meshnode invite` makes a ticket for the next device.")
        return
    columns = ("NODE", "NAME", "STATE", "TRUST", "RTT", "RUNNING", "MODELS")
    screen.table(columns, [_peer_row(peer) for peer in seen.peers])


@click.command()
@verb
async def version(screen: Screen, home: Path) -> None:
    """Print the version."""
    screen.json(Version(__version__, str(home)))
    screen.line(f"meshnode {__version__}")


def _draw(screen: Screen, ticket: str) -> None:
    """The ticket as a code; what is not a terminal gets it without colours."""
    lines = draw(ticket, colours=screen.columns > 0)
    screen.drawing(lines)
    wide = len(draw(ticket, colours=False)[0])
    if 0 < screen.columns < wide:
        screen.line(f"The code needs {wide} columns, and this terminal has {screen.columns}: make it wider.")


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
        "sandbox": ": ".join(filter(None, (engine.sandbox, engine.exposure))),
        "running": f"{engine.in_flight} of {engine.slots}, {engine.queued} waiting" if engine.slots else "",
        "more models": ", ".join(_other_engine(other) for other in seen.engines[1:]),
        "others' work": sharing_line(seen.sharing) if seen.engine.slots else "",
        **{f"cloud {api.name}": _cloud(api) for api in seen.cloud},
        "relays": _relays(mesh),
        "links": str(len(seen.links)),
        "peers": str(len(seen.peers)),
        "distrusted": ", ".join(_distrusted(peer) for peer in seen.peers if peer.distrusted),
    }


def _distrusted(peer: PeerView) -> str:
    """Which models a peer was found to claim and not to answer with."""
    return f"{peer.name or peer.node[:ID_CHARACTERS]} ({', '.join(peer.distrusted)})"


def _relays(mesh: MeshView) -> str:
    """Who carries for this node, and for how many it does."""
    serving = f"for {mesh.relaying_for} that cannot be dialled" if mesh.relaying_for else ""
    return ", ".join(filter(None, [*(node[:ID_CHARACTERS] for node in mesh.relays), serving]))


def _cloud(api: CloudView) -> str:
    """A commercial API's budget, and what is in its way."""
    sums = {"spent": api.spent_usd, "assumed spent": api.assumed_usd, "held": api.held_usd}
    told = ", ".join(f"{amount:.4f} {word}" for word, amount in sums.items() if amount)
    left = f"{api.left_usd:.4f} of {api.monthly_usd:g} USD left in {api.month}"
    return "; ".join(filter(None, (left, told, api.detail if api.state != "ready" else "")))


def _other_engine(engine: EngineView) -> str:
    detail = f": {engine.detail}" if engine.detail else ""
    return f"{engine.model or engine.kind} ({engine.state}{detail})"


def _peer_row(peer: PeerView) -> tuple[str, ...]:
    return (
        peer.node[:ID_CHARACTERS],
        peer.name,
        peer.state,
        peer.trust,
        milliseconds(peer.rtt_ms),
        str(peer.in_flight),
        ", ".join(f"{model} (distrusted)" if model in peer.distrusted else model for model in peer.models),
    )
