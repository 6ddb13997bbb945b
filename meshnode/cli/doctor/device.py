"""Checks that need no running node: the home and its keys, the disk, the settings, the clock.

They change nothing: what is not there yet stays away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

import trio

from meshnode import config, identity
from meshnode.cli.doctor.finding import Found, Verdict
from meshnode.cli.render import megabytes
from meshnode.config import Config
from meshnode.errors import ConfigInvalid, HomeUnusable
from meshnode.node.home import LOCK_FILE
from meshnode.seams import Seams

DISK_LEAST_BYTES = 100_000_000  # for state and logs; below that a node soon cannot write
DISK_ROOMY_BYTES = 2_000_000_000  # for a small model
CLOCK_SLACK_S = 120.0
TIMEDATECTL = ("timedatectl", "show", "--property=NTPSynchronized", "--value")


def writable_home(home: Path) -> Found:
    """Whether a node could keep its things there."""
    if not home.exists():
        place = _nearest(home)
        if not os.access(place, os.W_OK | os.X_OK):
            return (
                Verdict.FAILED,
                f"{home} does not exist, and {place} cannot be written.",
                "Choose a --home.",
            )
        return Verdict.OK, f"{home} does not exist yet; the first start makes it."
    if not home.is_dir():
        return Verdict.FAILED, f"{home} is no directory.", "Choose another --home."
    try:
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x")
    except OSError as error:
        hint = "Change its owner, make room, or choose another with --home."
        return Verdict.FAILED, f"{home} cannot be written: {error.strerror or error}.", hint
    if home.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Verdict.WARNING, f"Other users can write in {home}.", f"Run: chmod go-w {home}"
    return Verdict.OK, f"{home} can be written."


def lock_holder(home: Path) -> str:
    """Which process holds the home: its number, `?` if it did not leave that, nothing if the home is free.

    The lock is taken for an instant, where it is free.
    """
    try:
        descriptor = os.open(home / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "?"
    else:
        return ""
    finally:
        os.close(descriptor)


def private_keys(home: Path, seams: Seams) -> Found:
    """Whether the secret keys are whole, this user's, and nobody else's to read."""
    present = [path for path in identity.secret_files(home) if path.exists()]
    if not present:
        return Verdict.OK, "There are none yet; the first start makes them."
    for path in present:
        status = path.stat()
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            hint = (
                f"If nobody read it, run: chmod 600 {path}. If somebody may have, delete it and join again."
            )
            return Verdict.FAILED, f"Other users of this machine can read {path}.", hint
        if status.st_uid != os.getuid():
            return Verdict.FAILED, f"{path} belongs to another user.", f"Run: sudo chown $USER {path}"
    identity.load_root(home)
    if not (home / identity.IDENTITY_FILE).exists():
        return Verdict.OK, "The root key is here; the first start makes the node's own."
    own = identity.load_or_create(home, seams.entropy)
    return Verdict.OK, f"This node is {own.name}; nobody else can read its keys."


def disk(home: Path) -> Found:
    """Whether there is room on the home's disk."""
    free = shutil.disk_usage(_nearest(home)).free
    said = f"{megabytes(free)} are free where {home} is."
    if free < DISK_LEAST_BYTES:
        return Verdict.FAILED, said, "Make room: a node that cannot write its state stops."
    if free < DISK_ROOMY_BYTES:
        return Verdict.WARNING, said, "Larger models will not fit; `meshnode rm NAME` gives one up."
    return Verdict.OK, said


def settings(home: Path) -> Found:
    """Whether the settings in force can be used."""
    found = config.load(home, {}, os.environ)
    file = home / config.FILE_NAME
    source = f"from {file}" if file.exists() else "without a config.toml"
    return Verdict.OK, f"Usable, {source}: model {found.model or 'none'}, engine {found.engine}."


def read_settings(home: Path) -> Config | None:
    """The settings for the other checks; None where they cannot be used, which `settings` tells of."""
    try:
        return config.load(home, {}, os.environ)
    except (ConfigInvalid, HomeUnusable):
        return None


async def clock(home: Path, seams: Seams) -> Found:
    """Whether the clock is behind what was written here before, and whether the system says that it is kept right."""
    newest = max(
        (path.stat().st_mtime for path in (home / LOCK_FILE, Path(__file__)) if path.exists()), default=0.0
    )
    behind_s = newest - seams.wall()
    if behind_s > CLOCK_SLACK_S:
        hint = "Set it: with a wrong clock other nodes refuse this one's tickets and records."
        return Verdict.FAILED, f"It is {behind_s:.0f} seconds behind a file that is here already.", hint
    if shutil.which(TIMEDATECTL[0]) is None:
        return Verdict.OK, "Plausible; this system does not tell whether it is synchronised."
    asked = await trio.run_process(TIMEDATECTL, capture_stdout=True, capture_stderr=True, check=False)
    answer = asked.stdout.decode(errors="replace").strip()
    if answer == "no":
        return Verdict.WARNING, "It is not synchronised.", "Run: sudo timedatectl set-ntp true"
    told = "synchronised" if answer == "yes" else "this system does not tell whether it is synchronised"
    return Verdict.OK, f"Plausible; {told}."


def _nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())
