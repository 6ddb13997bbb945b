"""A property list for launchd, macOS's service manager: an agent of the user or a daemon of the system."""

from __future__ import annotations

import os
import plistlib
import shutil
from pathlib import Path
from typing import Any

from meshnode.cli.service.unit import STOP_SPARE_S, Unit, Wanted, check_text

LABEL_PREFIX = "local."
SYSTEM_PLACE = Path("/Library/LaunchDaemons")
SYSTEM_LOGS = Path("/Library/Logs")
PRIVATE_MASK = 0o077


def unit(wanted: Wanted) -> Unit:
    """The property list of this service. Raises BadRequest."""
    check_text(wanted)
    label = f"{LABEL_PREFIX}{wanted.name}"
    domain = "system" if wanted.system else f"gui/{os.getuid()}"
    path = (SYSTEM_PLACE if wanted.system else Path.home() / "Library" / "LaunchAgents") / f"{label}.plist"
    log = _log(wanted)
    return Unit(
        path=path,
        content=plistlib.dumps(_content(wanted, label, log), sort_keys=False),
        start=(("launchctl", "bootstrap", domain, str(path)),),
        stop=(("launchctl", "bootout", f"{domain}/{label}"),),
        forget=(),
        query=("launchctl", "print", f"{domain}/{label}"),
        logs=f"tail -f '{log}'",
        running=shutil.which("launchctl") is not None,
        note="" if wanted.system else "It runs while you are logged in.",
    )


def _content(wanted: Wanted, label: str, log: Path) -> dict[str, Any]:
    user = {"UserName": wanted.user} if wanted.system and wanted.user else {}
    return {
        "Label": label,
        **user,
        "ProgramArguments": list(wanted.command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": wanted.drain_s + STOP_SPARE_S,
        "Umask": PRIVATE_MASK,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }


def _log(wanted: Wanted) -> Path:
    place = SYSTEM_LOGS if wanted.system else Path.home() / "Library" / "Logs"
    return place / f"{wanted.name}.log"
