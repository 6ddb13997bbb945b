"""The options of verbs that start a node: flags with the names and words of the settings they set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from meshnode.config import every_setting

C = TypeVar("C", bound=Callable[..., Any])

OPTIONS: dict[str, Any] = {
    "name": str,
    "model": str,
    "models": str,
    "memory_mb": int,
    "engine": click.Choice(["llama", "scripted", "none"]),
    "api_host": str,
    "api_port": int,
    "mesh_host": str,
    "mesh_port": int,
    "sandbox": click.Choice(["auto", "none"]),
    "threads": int,
    "slots": int,
    "context": int,
    "slot_context": int,
    "bootstrap": str,
    "advertise": str,
    "upstream": str,
}
SWITCHES = ("discover", "lan", "reachable")


def node_options(command: C) -> C:
    """Add one option for each setting; those not given are None, so that other sources decide."""
    settings = {setting.name: setting for setting in every_setting()}
    open_mesh = click.option(
        "--open", "open_mesh", is_flag=True, default=None, help=settings["open_mesh"].description
    )
    for name, kind in reversed(OPTIONS.items()):
        about = settings[name].description
        if isinstance(settings[name].default, str) and settings[name].default == "[]":
            about += " Several are separated by commas."
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, default=None, help=about)(
            command
        )
    about = settings["allow_unsandboxed"].description
    command = click.option(
        "--allow-unsandboxed", "allow_unsandboxed", is_flag=True, default=None, help=about
    )(command)
    for name in SWITCHES:
        about = settings[name].description
        command = click.option(f"--{name}/--no-{name}", name, default=None, help=about)(command)
    return open_mesh(command)
