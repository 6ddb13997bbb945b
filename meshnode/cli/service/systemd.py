"""A unit for systemd, of the user or of the system."""

from __future__ import annotations

import os
from pathlib import Path

from meshnode.cli import exits
from meshnode.cli.service.unit import STOP_SPARE_S, Command, Unit, Wanted, check_text

SYSTEM_PLACE = Path("/etc/systemd/system")
BOOTED = Path("/run/systemd/system")  # there exactly where systemd is the init, see sd_booted(3)
RESTART_S = 5
# Starting again mends neither: the settings, or the home, must be changed first.
FINAL_CODES = (exits.USAGE, exits.TABLE["home_unusable"])
LINGER = "It runs while you are logged in; `loginctl enable-linger` has it run always."


def unit(wanted: Wanted) -> Unit:
    """The unit of this service. Raises BadRequest."""
    check_text(wanted)
    name = f"{wanted.name}.service"
    control: Command = ("systemctl",) if wanted.system else ("systemctl", "--user")
    reload = (*control, "daemon-reload")
    return Unit(
        path=(SYSTEM_PLACE if wanted.system else _user_place()) / name,
        content=_content(wanted).encode(),
        start=(reload, (*control, "enable", "--now", name)),
        stop=((*control, "disable", "--now", name),),
        forget=(reload,),
        query=(*control, "is-active", name),
        logs=f"journalctl {'' if wanted.system else '--user '}-u {name} -f",
        running=BOOTED.is_dir() and (wanted.system or _user_manager().exists()),
        note="" if wanted.system else LINGER,
    )


def quoted(word: str) -> str:
    """A word of ExecStart: quoted, and with its percent signs meant as they are."""
    inside = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{inside}"'


def _content(wanted: Wanted) -> str:
    online = ["Wants=network-online.target", "After=network-online.target"] if wanted.system else []
    user = [f"User={wanted.user}"] if wanted.system and wanted.user else []
    lines = [
        "[Unit]",
        "Description=meshnode, one device of a mesh that serves language models",
        *online,
        "",
        "[Service]",
        "Type=exec",
        *user,
        # The colon: dollar signs in a path are meant as they are.
        f"ExecStart=:{' '.join(map(quoted, wanted.command))}",
        "Restart=on-failure",
        f"RestartSec={RESTART_S}",
        f"RestartPreventExitStatus={' '.join(map(str, FINAL_CODES))}",
        f"TimeoutStopSec={wanted.drain_s + STOP_SPARE_S}",
        "KillMode=mixed",
        "UMask=0077",
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if wanted.system else 'default.target'}",
        "",
    ]
    return "\n".join(lines)


def _user_place() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "systemd" / "user"


def _user_manager() -> Path:
    """There while systemd runs for this user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return Path(runtime) / "systemd" / "private"
