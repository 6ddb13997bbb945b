"""The verbs about API keys. They ask the running node; without one they work on its home."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from meshnode import config
from meshnode.cli import client
from meshnode.cli.render import Screen, day
from meshnode.cli.verb import verb
from meshnode.control.invite import duration_s
from meshnode.control.keys import CreateKey, Keyring, KeyView, MadeKey, RevokeKey
from meshnode.control.verbs import read_arguments
from meshnode.errors import NotRunning
from meshnode.seams import Seams
from meshnode.state.store import open_store
from meshnode.terms import Privacy
from meshnode.terms.profile import CONCURRENT_MAX, PER_MINUTE_MAX, SCOPES_DEFAULT, Profile, Scope

FIRST = (
    "From now on a key that this node does not know is refused (401), such as the `unused` that clients send where "
    "none is needed: give them this one, or, where none is needed, none at all."
)
R = TypeVar("R")


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of this node's API."""


@keys.command("create")
@click.argument("name")
@click.option("--profile", default="", help="One of the [[profiles]] in the node's settings.")
@click.option(
    "--privacy",
    multiple=True,
    type=click.Choice([each.value for each in Privacy]),
    help="Allow requests of this class alone; repeatable.",
)
@click.option("--model", "models", multiple=True, help="Allow this model alone, such as qwen3:*; repeatable.")
@click.option("--no-cloud", is_flag=True, help="Let no commercial API serve.")
@click.option("--max-tokens", default=0, type=click.IntRange(0), help="The most tokens of an answer.")
@click.option("--min-tier", default=0, type=click.IntRange(0, 6), help="How good weights must be at least.")
@click.option("--residency", multiple=True, help="A label that the serving node must carry; repeatable.")
@click.option("--max-price", type=click.FloatRange(0), help="The most a request may cost, in USD.")
@click.option(
    "--concurrent", default=0, type=click.IntRange(0, CONCURRENT_MAX), help="The most requests at once."
)
@click.option(
    "--per-minute", default=0, type=click.IntRange(0, PER_MINUTE_MAX), help="The most requests a minute."
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([each.value for each in Scope]),
    default=[each.value for each in SCOPES_DEFAULT],
    show_default=True,
    help="A door that it opens; repeatable.",
)
@click.option("--expires", default="", help="How long it is good for: 12h, 30d; for ever if not given.")
@verb
async def create(
    screen: Screen,
    home: Path,
    *,
    name: str,
    profile: str,
    privacy: tuple[str, ...],
    models: tuple[str, ...],
    no_cloud: bool,
    max_tokens: int,
    min_tier: int,
    residency: tuple[str, ...],
    max_price: float | None,
    concurrent: int,
    per_minute: int,
    scopes: tuple[str, ...],
    expires: str,
) -> None:
    """Make a key and print it, this once. NAME is what the list calls it."""
    limits = {
        "privacy": privacy,
        "models": models,
        "cloud": not no_cloud,
        "max_tokens": max_tokens,
        "min_tier": min_tier,
        "residency": residency,
        "max_price_usd": max_price,
        "concurrent": concurrent,
        "per_minute": per_minute,
    }
    wanted: dict[str, object] = {"name": name, "profile": profile, "scopes": scopes, "limits": limits}
    wanted["expires_s"] = duration_s(expires) if expires else 0
    asked = read_arguments(CreateKey, wanted)
    try:
        made = await client.call(home, "keys_create", msgspec.to_builtins(asked), MadeKey)
    except NotRunning:
        async with _keyring(home) as ring:
            made = await ring.create(asked)
    screen.json(made)
    screen.line(f"The key {made.about.name} ({made.about.id}), which is shown this once:")
    screen.line(f"  {made.key}")
    if made.first:
        screen.note(FIRST)


@keys.command("list")
@verb
async def list_verb(screen: Screen, home: Path) -> None:
    """Show every key, never the key itself."""
    try:
        views = await client.call(home, "keys_list", {}, tuple[KeyView, ...])
    except NotRunning:
        async with _keyring(home) as ring:
            views = ring.views()
    for view in views:
        screen.json(view)
    if views:
        columns = ("ID", "NAME", "STATE", "OPENS", "PROFILE", "LIMITS", "MADE", "UNTIL")
        screen.table(columns, [_row(view) for view in views])
    else:
        screen.line("This node has no API keys.")


@keys.command("revoke")
@click.argument("key")
@verb
async def revoke(screen: Screen, home: Path, *, key: str) -> None:
    """Take a key back for good. KEY is its id, or the name of one that is good."""
    wanted = RevokeKey(key)
    try:
        gone = await client.call(home, "keys_revoke", msgspec.to_builtins(wanted), KeyView)
    except NotRunning:
        async with _keyring(home) as ring:
            gone = await ring.revoke(wanted)
    screen.json(gone)
    screen.line(f"The key {gone.name} ({gone.id}) is revoked.")


@asynccontextmanager
async def _keyring(home: Path) -> AsyncIterator[Keyring]:
    """The keys of a home whose node does not run; while this is open, none can start. Raises HomeInUse."""
    from meshnode.node.home import locked_home  # late: with it comes all of a node

    settings, seams = config.load(home, {}, os.environ), Seams()
    with locked_home(home):
        store = await open_store(home, seams.blocking)
        try:
            ring = Keyring(store, seams, settings.profiles)
            await ring.load()
            yield ring
        finally:
            await store.aclose()


def _row(view: KeyView) -> tuple[str, ...]:
    until = day(view.expires_ms) if view.expires_ms else ""
    return (
        view.id,
        view.name,
        view.state,
        ", ".join(view.scopes),
        view.profile,
        _limits(view.limits),
        day(view.made_ms),
        until,
    )


def _limits(limits: Profile) -> str:
    said = (
        ", ".join(limits.privacy),
        ", ".join(limits.models),
        "" if limits.cloud else "no cloud",
        f"{limits.max_tokens} tokens" if limits.max_tokens else "",
        f"tier {limits.min_tier}" if limits.min_tier else "",
        ", ".join(limits.residency),
        "" if limits.max_price_usd is None else f"{limits.max_price_usd:g} USD",
        f"{limits.concurrent} at once" if limits.concurrent else "",
        f"{limits.per_minute} a minute" if limits.per_minute else "",
    )
    return "; ".join(one for one in said if one)
