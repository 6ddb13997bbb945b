"""How commands are typed here: by name where the program is on the PATH, else by where it lies.

Somebody who only ran `scripts/start` has no `meshnode` to type. It knows no verbs.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

NAME = "meshnode"
QUOTED = f"`{NAME} "


def typed(words: str) -> str:
    """The command line for a verb with its arguments, as it can be typed on this device."""
    return f"{program()} {words}"


def joining(ticket: str) -> str:
    """What to type on the next device, which is set up in the same way as this one."""
    clone = _clone()
    if clone is None:
        return f"{NAME} join {ticket}"
    return f"{_from_here(clone / 'scripts' / 'start')} --join {ticket}"


def spelt(text: str) -> str:
    """The text with the commands in it, which stand in backquotes, as they can be typed on this device."""
    return text.replace(QUOTED, f"`{program()} ") if QUOTED in text else text


def program() -> str:
    """What runs this program when it is typed."""
    return NAME if _clone() is None else _from_here(_executable())


def _executable() -> Path:
    return Path(sys.argv[0]).absolute()


def _clone() -> Path | None:
    """The checkout whose own environment this program runs from, where it cannot be called by its name."""
    executable = _executable()
    root = executable.parents[2] if len(executable.parents) > 2 else executable.parent
    if executable.name != NAME or not (root / "scripts" / "start").is_file():
        return None
    found = shutil.which(NAME)
    return None if found and Path(found).samefile(executable) else root


def _from_here(path: Path) -> str:
    """The path as short as it can be typed in the folder where the person is."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here)) if path.is_relative_to(here) else str(path))
